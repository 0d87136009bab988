"""How like its most similar other every token is, by any of the usual metrics, and who leaves for that.

```
some [b s f], others [b t f] ──► chunks of a table [b s t] ──► best of every row [b s]; higher is more alike
features, scores ──► ranks ──► partition ──► likeness ──► the most alike leave ──► positions of the rest
```
Distances are taken directly, not from products, so that equal tokens are at exactly zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.nn.clustering import chunked, take

POWERS = {
    "manhattan": 1.0,
    "euclidean": 2.0,
    "minkowski3": 3.0,
    "minkowski4": 4.0,
    "minkowski5": 5.0,
    "infinity": torch.inf,
}
METRICS = ("cosine", "dot", *POWERS)
PARTITIONS = ("sequential", "important first", "alternating", "random", "none")


def likeness(
    some: Float[Tensor, "b s f"], others: Float[Tensor, "b t f"], metric: str = "cosine"
) -> Float[Tensor, "b s"]:
    """Of every token its likeness to the most similar of the others: inner product or negative distance."""
    some, others = _scaled(some, metric), _scaled(others, metric)
    rows = chunked(some.shape[1], others.shape[1] * len(some))
    return torch.cat([_table(some[:, part], others, metric).amax(-1) for part in rows], 1)


def likeness_above(ranked: Float[Tensor, "b n f"], metric: str = "cosine") -> Float[Tensor, "b n"]:
    """Of every token its likeness to the most similar of those before it; −∞ for the first."""
    ranked = _scaled(ranked, metric)
    size = ranked.shape[1]
    place = torch.arange(size, device=ranked.device)
    parts = []
    for rows in chunked(size, size * len(ranked)):
        table = _table(ranked[:, rows], ranked, metric)
        parts.append(table.masked_fill(place >= place[rows, None], -torch.inf).amax(-1))
    return torch.cat(parts, 1)


def _scaled(tokens: Float[Tensor, "b n f"], metric: str) -> Float[Tensor, "b n f"]:
    return F.normalize(tokens, dim=-1) if metric == "cosine" else tokens


def _table(
    some: Float[Tensor, "b s f"], others: Float[Tensor, "b t f"], metric: str
) -> Float[Tensor, "b s t"]:
    if metric in POWERS:
        return -torch.cdist(some, others, POWERS[metric], compute_mode="donot_use_mm_for_euclid_dist")
    return some @ others.mT


def comparable(size: int, partition: str) -> int:
    """How many of so many tokens a partition lets leave."""
    return max(size - 1, 0) if partition == "none" else size // 2


def dissimilar(
    features: Float[Tensor, "b n f"],
    scores: Float[Tensor, "b n"],
    removed: int,
    *,
    partition: str = "sequential",
    metric: str = "cosine",
    seed: int = 0,
) -> Int[Tensor, "b m"]:
    """Positions, rising, of the tokens that are left when those most like others leave.

    Args:
        features: to compare.
        scores: importance, by which tokens are ranked; of equal ones the first ranks higher.
        removed: at most as many as `comparable` says.
        partition: which tokens may leave for being like which: the lower half for the upper ("sequential"),
            the upper for the lower ("important first"), every second for those between ("alternating"), a
            drawn half for the other ("random"), or each for any above it ("none").
        metric: of likeness.
        seed: of the draw.
    """
    rank = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = take(features, rank)
    size = ranked.shape[1]
    if partition == "none":
        leaving, alike = torch.arange(size, device=ranked.device), likeness_above(ranked, metric)
    else:
        leaving, staying = (part.to(ranked.device) for part in _parts(size, partition, seed))
        alike = likeness(ranked[:, leaving], ranked[:, staying], metric)
    gone = leaving[alike.argsort(dim=-1, descending=True, stable=True)[:, :removed]]
    left = torch.ones(rank.shape, device=rank.device).scatter(1, rank.gather(1, gone), 0.0)
    return left.argsort(dim=-1, descending=True, stable=True)[:, : size - removed]


def _parts(size: int, partition: str, seed: int) -> tuple[Int[Tensor, "s"], Int[Tensor, "t"]]:
    """Ranks of those that may leave, and of those they are compared with."""
    half, ranks = size // 2, torch.arange(size)
    match partition:
        case "sequential":
            return ranks[size - half :], ranks[: size - half]
        case "important first":
            return ranks[:half], ranks[half:]
        case "alternating":
            return ranks[1::2], ranks[::2]
    drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return drawn[:half].sort().values, drawn[half:].sort().values
