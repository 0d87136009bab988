"""Grouping tokens: bipartite matching, k-means, DPC-kNN, spectral features, farthest points.

```
tokens [b n d] ──► centres [b k] (positions of tokens) and group [b n] (0 … k-1)
```
Ties go to the smallest index. Distances are made in chunks of rows, so no more than `CHUNK` numbers of a
distance matrix exist at a time where the method allows; k-medoids and spectral clustering need the whole
matrix.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.nn import rows
from smalti.nn.order import descending
from smalti.nn.rows import take as take

CHUNK = 2**22


def chunked(rows: int, columns: int) -> list[slice]:
    """Slices of rows whose products with all columns hold at most `CHUNK` numbers."""
    step = max(1, CHUNK // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def squared_distances(a: Float[Tensor, "b n d"], b: Float[Tensor, "b m d"]) -> Float[Tensor, "b n m"]:
    """Squared Euclidean distances by one matrix product; never negative."""
    of_a = torch.linalg.vector_norm(a, dim=-1).square()
    of_b = of_a if b is a else torch.linalg.vector_norm(b, dim=-1).square()
    return torch.bmm(a, b.mT).mul_(-2).add_(of_a[..., None]).add_(of_b[:, None]).clamp_(min=0)


def nearest(
    tokens: Float[Tensor, "b n d"], centres: Float[Tensor, "b k d"], *, cosine: bool = False
) -> Int[Tensor, "b n"]:
    """The nearest centre of every token, by Euclidean distance or by cosine."""
    if cosine:
        tokens, centres = F.normalize(tokens, dim=-1), F.normalize(centres, dim=-1)
    offset = torch.zeros_like(centres[..., 0]) if cosine else centres.square().sum(-1) / 2
    parts = [
        torch.baddbmm(offset[:, None], tokens[:, rows], centres.mT, beta=-1).argmax(-1)
        for rows in chunked(tokens.shape[1], centres.shape[1] * tokens.shape[0])
    ]
    return torch.cat(parts, 1)


def means(
    tokens: Float[Tensor, "b n d"], group: Int[Tensor, "b n"], count: int, weight: Float[Tensor, "b n"]
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"]]:
    """Weighted mean of every group (zeros without members) and its weight."""
    total = torch.zeros(tokens.shape[0], count, device=tokens.device).scatter_add(1, group, weight)
    sums = rows.total(tokens * weight[..., None].to(tokens.dtype), group, count)
    return sums / torch.where(total == 0, 1, total)[..., None].to(tokens.dtype), total


def best_pairs(
    a: Float[Tensor, "b n d"], b: Float[Tensor, "b m d"]
) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Of every row of `a` the highest inner product with a row of `b`, and which."""
    if torch.compiler.is_exporting() or a.shape[0] * a.shape[1] * b.shape[1] <= CHUNK:
        score, index = (a @ b.mT).max(-1)
        return score, index
    parts = [(a[:, rows] @ b.mT).max(-1) for rows in chunked(a.shape[1], b.shape[1] * a.shape[0])]
    return torch.cat([p.values for p in parts], 1), torch.cat([p.indices for p in parts], 1)


def farthest_points(
    points: Float[Tensor, "b n d"], count: int, first: Int[Tensor, "b"] | None = None
) -> Int[Tensor, "b k"]:
    """Positions chosen one after the other, each farthest from those before.

    The first has the largest norm when not given: the KKZ start of k-means and k-medoids (Katsavounidis, Kuo
    & Zhang, 1994).
    """
    batch = torch.arange(points.shape[0], device=points.device)
    chosen = [points.square().sum(-1).argmax(-1) if first is None else first]
    distance = torch.full(points.shape[:2], torch.inf, device=points.device)
    for _ in range(count - 1):
        last = points[batch, chosen[-1]][:, None]
        distance = torch.minimum(distance, (points - last).square().sum(-1))
        distance[batch, chosen[-1]] = -1  # never again, also among equal tokens
        chosen.append(distance.argmax(-1))
    return torch.stack(chosen, 1)


def k_means(
    tokens: Float[Tensor, "b n d"],
    start: Int[Tensor, "b k"],
    weight: Float[Tensor, "b n"] | None = None,
    *,
    iterations: int = 10,
    cosine: bool = False,
) -> Int[Tensor, "b n"]:
    """Groups by Lloyd's iterations from the tokens at `start`. Every group keeps at least that token.

    Args:
        tokens: to be grouped.
        start: positions of the first centres, all different.
        weight: of every token in the means.
        iterations: at most; stops earlier when nothing moves.
        cosine: compare directions instead of distances.
    """
    tokens = tokens.float()
    weight = torch.ones(tokens.shape[:2], device=tokens.device) if weight is None else weight
    count = start.shape[1]
    own = torch.arange(count, device=tokens.device).expand_as(start)
    centres = take(tokens, start)
    group = nearest(tokens, centres, cosine=cosine).scatter(1, start, own)
    for _ in range(iterations):
        centres, _ = means(tokens, group, count, weight)
        moved = nearest(tokens, centres, cosine=cosine).scatter(1, start, own)
        if torch.equal(moved, group):
            break
        group = moved
    return group


def density_peaks(
    tokens: Float[Tensor, "b n d"],
    count: int,
    neighbours: int = 5,
    mask: Bool[Tensor, "b n"] | None = None,
    noise: Float[Tensor, "b n"] | None = None,
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"]]:
    """DPC-kNN (Du, Ding & Jia, 2016): centres are dense and far from anything denser.

    density = exp(−mean square of the k smallest distances, itself included), distances / √d;
    score = density × distance to the nearest denser token (the largest distance for the densest).
    Most tokens have a denser one among their neighbours, which is then the nearest; only the others, the
    peaks of density, are compared with all tokens once more.

    Args:
        tokens: to be grouped.
        count: of groups.
        neighbours: k; at most the tokens there are.
        mask: tokens that count; others are never centres nor neighbours.
        noise: added to densities, to break ties as some papers do; none when not given.

    Returns:
        Centres by falling score, and every token's nearest centre, each centre being its own.
    """
    batch, size, dim = tokens.shape
    tokens = tokens.detach().float()
    parts = chunked(size, size * batch)
    whole = squared_distances(tokens, tokens) if len(parts) == 1 else None
    if whole is not None:
        whole.diagonal(dim1=1, dim2=2).zero_()
    there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask

    def squares(some: Int[Tensor, "b r"]) -> Float[Tensor, "b r n"]:
        if whole is None:
            found = squared_distances(take(tokens, some), tokens).scatter_(2, some[..., None], 0.0)
        else:
            found = take(whole, some)
        return found if mask is None else found.masked_fill(~mask[:, None], torch.inf)

    position = torch.arange(size, device=tokens.device).expand(batch, -1)
    near, largest = [], torch.zeros(batch, 1, device=tokens.device)
    for part in parts:
        distance = squares(position[:, part]) if whole is None or mask is not None else whole
        near.append(distance.topk(min(neighbours, size), -1, largest=False))
        finite = distance if mask is None else distance.masked_fill(~(mask[:, part, None] & mask[:, None]), 0)
        largest = torch.maximum(largest, finite.amax((1, 2))[:, None])
    closest = torch.cat([part.values for part in near], 1)
    neighbour = torch.cat([part.indices for part in near], 1)

    density = (-closest.mean(-1) / dim).exp()
    density = (density if noise is None else density + noise) * there
    denser = density.gather(1, neighbour.flatten(1)).view_as(closest) > density[..., None]
    reach = closest.masked_fill(~denser, torch.inf).amin(-1)
    peak = reach.isinf() & there
    most = size if torch.compiler.is_exporting() else int(peak.sum(1).max())
    peaks = descending(peak.float())[:, :most]
    for part in chunked(peaks.shape[1], size * batch):
        some = peaks[:, part]
        denser = density[:, None] > density.gather(1, some)[..., None]
        reach = reach.scatter(1, some, squares(some).masked_fill(~denser, torch.inf).amin(-1))
    score = torch.where(reach.isinf(), largest, reach).div(dim).sqrt() * density
    score = score.masked_fill(~there, -1)
    centres = descending(score)[:, :count]
    group = nearest(tokens, take(tokens, centres)) if whole is None else take(whole, centres).argmin(1)
    own = torch.arange(count, device=tokens.device).expand_as(centres)
    return centres, group.scatter(1, centres, own)


def spectral_features(graph: Float[Tensor, "b n n"], count: int) -> Float[Tensor, "b n k"]:
    """Rows of the normalised Laplacian's eigenvectors of smallest eigenvalues, scaled to length one.

    Signs are fixed so that every eigenvector's entries have a positive sum of signed squares (Ng, Jordan &
    Weiss, 2001; signs after Bro, Acar & Kolda, 2008).
    """
    degree = graph.sum(-1).clamp(min=torch.finfo(graph.dtype).tiny).rsqrt()
    laplacian = torch.eye(graph.shape[-1], device=graph.device) - degree[:, :, None] * graph * degree[:, None]
    vectors = torch.linalg.eigh(laplacian).eigenvectors[..., :count]
    sign = torch.where((vectors * vectors.abs()).sum(1, keepdim=True) < 0, -1.0, 1.0)
    return F.normalize(vectors * sign, dim=-1)
