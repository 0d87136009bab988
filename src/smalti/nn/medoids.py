"""k-medoids++ in batches: a KKZ start, then Park & Jun's alternation, on distances that are all negative.

```
tokens [b n d] ─► distances − largest − 1, diagonal − 1 ─► KKZ start ─► assign ⇄ best member ─► medoids, group
```
Every group then holds its own medoid, also among equal tokens, and ties fall as they do in CenterCLIP (Zhao
et al., 2022), whose order of operations is kept to the last bit. Memory is one n × n matrix a sample, in
pieces of `CHUNK`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.nn.clustering import CHUNK, take

TINY = 1e-6  # added to lengths before division


def unit(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Rows of length one; rows of zeros stay."""
    return x / (x.norm(dim=-1, keepdim=True) + TINY)


def negative_distances(
    tokens: Float[Tensor, "b n d"], *, cosine: bool = False, power: float = 2.0, shared: bool = False
) -> Float[Tensor, "b n n"]:
    """Distances shifted below zero, every token being nearest to itself.

    Args:
        tokens: to be compared.
        cosine: 1 − cosine instead of a Minkowski distance.
        power: of the Minkowski distance.
        shared: shift by the largest distance of the whole batch, not of each sample.
    """
    if cosine:
        directions = unit(tokens)
        distance = 1 - directions @ directions.mT
    else:
        distance = torch.cdist(tokens, tokens, p=power)
    largest = distance.amax() if shared else distance.amax((1, 2), keepdim=True)
    distance = distance - largest - 1
    distance.diagonal(dim1=1, dim2=2).sub_(1)
    return distance


def kkz_start(
    tokens: Float[Tensor, "b n d"], distance: Float[Tensor, "b n n"], count: int
) -> Int[Tensor, "b k"]:
    """The token of largest norm, then each farthest from those chosen (Katsavounidis, Kuo & Zhang, 1994)."""
    batch = torch.arange(len(tokens), device=tokens.device)
    chosen = [tokens.norm(dim=-1).argmax(-1)]
    nearest = torch.full(tokens.shape[:2], torch.inf, device=tokens.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, distance[batch, chosen[-1]])
        nearest[batch, chosen[-1]] = -torch.inf
        chosen.append(nearest.argmax(-1))
    return torch.stack(chosen, 1)


def assign(distance: Float[Tensor, "b n n"], medoids: Int[Tensor, "b k"]) -> Int[Tensor, "b n"]:
    """The nearest medoid of every token; a medoid is its own."""
    group = take(distance, medoids).argmin(1)
    return group.scatter(1, medoids, torch.arange(medoids.shape[1], device=group.device).expand_as(medoids))


def best_members(
    distance: Float[Tensor, "b n n"], group: Int[Tensor, "b n"], count: int
) -> Int[Tensor, "b k"]:
    """Of every group the member with the least summed distance to the others."""
    cost = (distance * (group[:, :, None] == group[:, None])).sum(-1)
    member = group[..., None] == torch.arange(count, device=group.device)
    return cost[..., None].masked_fill(~member, torch.inf).argmin(1)


def clustering_cost(tokens: Float[Tensor, "b n d"], medoids: Int[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Sum over all tokens of the Euclidean distance to the nearest medoid."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(tokens, take(tokens, medoids), compute_mode=exact).amin(-1).sum(-1)


def k_medoids(
    tokens: Float[Tensor, "b n d"],
    count: int,
    *,
    cosine: bool = False,
    power: float = 2.0,
    iterations: int = 100,
    threshold: float = 1e-6,
    chunk: int | None = None,
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"]]:
    """Medoids in rising order and the group of every token.

    Args:
        tokens: to be grouped; computed in float32, without gradients.
        count: of groups, at most n.
        cosine: 1 − cosine instead of a Minkowski distance.
        power: of the Minkowski distance.
        iterations: at most.
        threshold: a sample is done once its medoids move by less, summed over the medoids.
        chunk: samples that share the shift of distances and the stop rule (on their mean movement), as in the
            official code; every sample stands for itself when not given.
    """
    shared = chunk is not None
    pieces = tokens.detach().float().split(chunk or max(1, CHUNK // tokens.shape[1] ** 2))
    solved = []
    for piece in pieces:
        distance = negative_distances(piece, cosine=cosine, power=power, shared=shared)
        medoids = kkz_start(piece, distance, count)
        solved.append(_alternate(piece, distance, medoids, iterations, threshold, shared))
    return torch.cat([medoids for medoids, _ in solved]), torch.cat([group for _, group in solved])


def _alternate(
    tokens: Float[Tensor, "b n d"],
    distance: Float[Tensor, "b n n"],
    medoids: Int[Tensor, "b k"],
    iterations: int,
    threshold: float,
    shared: bool,
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"]]:
    done = torch.zeros(len(tokens), 1, dtype=torch.bool, device=tokens.device)
    for _ in range(iterations):
        moved = best_members(distance, assign(distance, medoids), medoids.shape[1])
        movement = (take(tokens, moved) - take(tokens, medoids)).norm(dim=-1).sum(-1, keepdim=True)
        medoids = torch.where(done, medoids, moved)
        done = done | ((movement.mean() if shared else movement) < threshold)
        if done.all():
            break
    medoids = medoids.sort(-1).values
    return medoids, assign(distance, medoids)
