"""Spherical k-means: groups of directions, with k-means++ starts and ways to choose how many.

```
unit tokens [b n d] ──► plus_plus ──► start [b k] ──► spherical_k_means ──► group [b n] ──► elbow, silhouette
```
Everything is seeded, and every sample is treated as if it were alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.nn.clustering import best_pairs, means, take

FLOOR = 1e-6  # chance of a token that lies on a centre


def plus_plus(tokens: Float[Tensor, "b n d"], count: int, seed: int = 0) -> Int[Tensor, "b k"]:
    """Positions drawn one after the other, by squared distance to those before.

    k-means++ (Arthur & Vassilvitskii, 2007). The first `k` of more draws are the draws for `k`. All samples
    use the same numbers of the generator.
    """
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    chances = torch.ones(tokens.shape[:2], dtype=torch.float64, device=tokens.device)
    distance = torch.full(tokens.shape[:2], torch.inf, device=tokens.device)
    chosen = []
    for number in drawn:
        below = chances.cumsum(1)
        place = torch.searchsorted(below, below[:, -1:] * number, right=True).clamp(max=tokens.shape[1] - 1)
        chosen.append(place)
        distance = torch.minimum(distance, (tokens - take(tokens, place)).square().sum(-1))
        chances = distance.double() + FLOOR
    return torch.cat(chosen, 1)


def spherical_k_means(
    tokens: Float[Tensor, "b n d"],
    centres: Float[Tensor, "b k d"],
    weight: Float[Tensor, "b n"] | None = None,
    *,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b k d"]]:
    """k-means that assigns by cosine and averages (Dhillon & Modha, 2001).

    Args:
        tokens: of any length; means are taken as they are, directions are compared.
        centres: to begin with. One that loses all its tokens stays where it is.
        weight: of every token in the means.
        iterations: at most.
        tolerance: a sample stops when the norm of all its centres' movement is below.

    Returns:
        Group of every token, and the centres they were assigned to.
    """
    weight = torch.ones(tokens.shape[:2], device=tokens.device) if weight is None else weight
    directions = F.normalize(tokens, dim=-1)
    group = torch.zeros(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
    moving = torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)
    for _ in range(iterations):
        group = torch.where(moving, best_pairs(directions, F.normalize(centres, dim=-1))[1], group)
        updated, total = means(tokens, group, centres.shape[1], weight)
        updated = torch.where(total[..., None] > 0, updated, centres)
        moving = moving & ((updated - centres).flatten(1).norm(dim=1, keepdim=True) >= tolerance)
        centres = torch.where(moving[..., None], updated, centres)
        if not moving.any():
            break
    return group, centres


def inhabited(
    directions: Float[Tensor, "b n d"], group: Int[Tensor, "b n"], count: int
) -> Int[Tensor, "b n"]:
    """The same groups, but each empty one gets the token that fits worst where it is.

    Raises:
        IndexError: fewer tokens than groups.
    """
    ones = torch.ones(group.shape, device=group.device)
    centres, size = means(directions, group, count, ones)
    if (size > 0).all():
        return group
    fit = (directions * take(F.normalize(centres, dim=-1), group)).sum(-1)
    group = group.clone()
    for sample, empty in (size == 0).nonzero().tolist():
        alone = size[sample, group[sample]] == 1
        worst = fit[sample].masked_fill(alone, torch.inf).argmin()
        size[sample, group[sample, worst]] -= 1
        size[sample, empty] += 1
        group[sample, worst] = empty
    return group


def in_order(group: Int[Tensor, "b n"], count: int) -> Int[Tensor, "b n"]:
    """The same groups, numbered by their first members; those without members come last."""
    size = group.shape[1]
    position = torch.arange(size, device=group.device).expand_as(group)
    first = torch.full((len(group), count), size, device=group.device)
    first = first.scatter_reduce(1, group, position, "amin")
    return first.argsort(dim=1, stable=True).argsort(dim=1).gather(1, group)


def distortion(tokens: Float[Tensor, "b n d"], group: Int[Tensor, "b n"], count: int) -> Float[Tensor, "b"]:
    """Sum of squared distances to the means of the groups."""
    centres, size = means(tokens, group, count, torch.ones(group.shape, device=group.device))
    return (tokens.square().sum((1, 2)) - (centres.square().sum(-1) * size).sum(1)).clamp(min=0)


def silhouette(tokens: Float[Tensor, "b n d"], group: Int[Tensor, "b n"], count: int) -> Float[Tensor, "b"]:
    """Mean of (b - a) / max(a, b): a is the cosine distance to the own mean, b to the nearest other one.

    This is the simplified silhouette (Hruschka et al., 2004), in [-1, 1]; higher is better, 0 for one group.
    """
    if count < 2:
        return torch.zeros(len(tokens), device=tokens.device)
    centres, _ = means(tokens, group, count, torch.ones(group.shape, device=group.device))
    distance = 1 - F.normalize(tokens, dim=-1) @ F.normalize(centres, dim=-1).mT
    own = distance.gather(2, group[..., None])
    other = distance.scatter(2, group[..., None], torch.inf).amin(-1, keepdim=True)
    return ((other - own) / torch.maximum(own, other).clamp(min=1e-6)).mean((1, 2))
