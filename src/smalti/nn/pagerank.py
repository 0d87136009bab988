"""Importance of tokens by PageRank on attention graphs, and its merging over heads.

```
attention [b h n n] ──► vote: s ← Aᵀ s, `iterations` times ──► scores [b h n], summing to 1
                                                                   └─► over_heads ──► [b n]
```
An edge leads from a query to each key, and its weight is the attention: a token is important when important
tokens look at it. `A s` would tell nothing: rows sum to 1, so a uniform `s` stays uniform.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


def vote(
    attention: Float[Tensor, "b h n n"],
    iterations: int,
    start: Float[Tensor, "n"] | None = None,
    tolerance: float = 0.0,
) -> Float[Tensor, "b h n"]:
    """Shares of importance after so many rounds of votes, each weighed by the importance of who votes.

    Args:
        attention: rows of queries, each summing to 1.
        iterations: rounds, at most.
        start: importance before the first round, summing to 1; equal when not given.
        tolerance: a head of a sample stops when its scores move no more than this (Euclidean length).
    """
    size = attention.shape[-1]
    graph = attention.float().mT
    first = torch.full((size,), 1 / size, device=graph.device) if start is None else start.to(graph)
    scores = first.expand(*graph.shape[:2], size)
    moving = torch.ones(graph.shape[:2], dtype=torch.bool, device=graph.device)
    for _ in range(iterations):
        voted = (graph @ scores[..., None]).squeeze(-1)
        voted = voted / voted.sum(-1, keepdim=True)  # rows of half precision do not sum to 1 exactly
        moved = torch.where(moving[..., None], voted, scores)
        if tolerance:
            moving = (moved - scores).norm(dim=-1) > tolerance
        scores = moved
        if not moving.any():
            break
    return scores


def subgraph(attention: Float[Tensor, "b h n n"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b h m m"]:
    """Attention among some tokens alone, with rows that sum to 1 again; a row without any becomes uniform."""
    heads, size = attention.shape[1:3]
    rows = attention.float().gather(2, index[:, None, :, None].expand(-1, heads, -1, size))
    part = rows.gather(3, index[:, None, None].expand(-1, heads, index.shape[1], -1))
    part = part + torch.finfo(part.dtype).tiny
    return part / part.sum(-1, keepdim=True)


def over_heads(
    scores: Float[Tensor, "b h n"],
    *,
    mean: Literal["rms", "mean"] = "rms",
    variance: tuple[float, float] | None = None,
) -> Float[Tensor, "b n"]:
    """One score a token, from those of every head.

    Args:
        scores: of every head.
        mean: root mean square, so that what few heads care for survives, or the plain mean.
        variance: only heads whose scores vary within this range count; all where none does.
    """
    kept = torch.ones(scores.shape[:2], device=scores.device)
    if variance is not None:
        spread = scores.var(-1, correction=0)
        inside = (spread >= variance[0]) & (spread <= variance[1])
        kept = (inside | ~inside.any(1, keepdim=True)).float()
    powered = scores.square() if mean == "rms" else scores
    merged = (powered * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
    return merged.sqrt() if mean == "rms" else merged
