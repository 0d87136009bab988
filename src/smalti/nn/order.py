"""Positions by falling score, the same on every device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def descending(scores: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Positions by falling score; of equal ones the first comes first.

    In a model that is being exported the order of equal ones is left to whoever runs it: ONNX has no stable
    sort.
    """
    if torch.compiler.is_exporting():
        return scores.argsort(dim=-1, descending=True)
    return scores.argsort(dim=-1, descending=True, stable=True)
