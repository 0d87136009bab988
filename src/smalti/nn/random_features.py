"""Softmax attention in linear time by positive random features (Performer, Choromanski et al., 2021).

```
queries ─► phi ─┐
keys    ─► phi ─┼─► phi(q) · (sum over s of phi(k_s) v_sᵀ)  /  phi(q) · (sum over s of phi(k_s))
values  ────────┘         phi(x) = exp(W x − |x|² / 2) / √m,   E[phi(q) · phi(k)] = exp(q · k)
```
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn


def orthogonal_features(count: int, dim: int) -> Float[Tensor, "m d"]:
    """Orthogonal directions times √m.

    Beyond `dim` features their squares sum to those of Gaussian ones; below they are shorter, as in T2T-ViT.
    """
    return nn.init.orthogonal_(torch.empty(count, dim)) * math.sqrt(count)


def positive_features(x: Float[Tensor, "*batch n d"], directions: Float[Tensor, "m d"]) -> Tensor:
    """phi(x) [*batch n m], in float32 also where autocast would not."""
    with _full_precision(x.device):
        x, directions = x.float(), directions.float()
        squares = x.square().sum(-1, keepdim=True) / 2
        return (x @ directions.mT - squares).exp() / math.sqrt(len(directions))


def linear_attention(
    q: Float[Tensor, "*batch n m"],
    k: Float[Tensor, "*batch s m"],
    v: Float[Tensor, "*batch s d"],
    eps: float = 1e-8,
) -> Float[Tensor, "*batch n d"]:
    """Means of values, weighted by products of features; no matrix of n × s is built.

    Args:
        q: features of the queries.
        k: features of the keys.
        v: values.
        eps: added to every sum of weights.
    """
    with _full_precision(v.device):
        gathered = k.mT @ v.float()
        weights = q @ k.sum(-2).unsqueeze(-1)
        return ((q @ gathered) / (weights + eps)).to(v.dtype)


def _full_precision(device: torch.device) -> AbstractContextManager:
    """Without autocast, on devices that know it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
