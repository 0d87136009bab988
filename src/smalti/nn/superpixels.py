"""Soft superpixels: k-means on a map of tokens that stays local, and the way back by the nearest centres.

```
map h × w ──► Layout: cells in rows ──► soft_k_means ──► shares [b m n]      centres = shares @ tokens
                                        neighbour_weights ──► [b n m]        restored = weights @ centres
```
After SSN (Jampani et al., 2018) without its network, as Expedit uses it (Liang et al., 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.clustering import squared_distances

STRETCH = 1.5  # a regular grid of cells may be so much longer or wider than the map


@dataclass(frozen=True)
class Layout:
    """How cells are laid over a map, row after row; they are numbered in that order.

    Attributes:
        height: of the map, in tokens.
        width: of the map, in tokens.
        columns: cells in every row; all equal where the layout is a regular grid.
    """

    height: int
    width: int
    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = 0 < len(self.columns) <= self.height and all(0 < c <= self.width for c in self.columns)
        if not fits:
            raise ConfigError(
                f"rows of {self.columns} cells do not fit on a map of {self.height}×{self.width} tokens"
            )

    @property
    def cells(self) -> int:
        """How many there are."""
        return sum(self.columns)

    def bins(self) -> Bool[Tensor, "m n"]:
        """The tokens over which every cell starts as the mean: those of adaptive average pooling."""
        rows = _spans(self.height, len(self.columns))
        parts = [
            row[None, :, None] & _spans(self.width, count)[:, None]
            for row, count in zip(rows, self.columns, strict=True)
        ]
        return torch.cat(parts).flatten(1)

    def near(self, radius: int) -> Bool[Tensor, "m n"]:
        """The tokens that may belong to every cell: those at most `radius` rows and columns of cells away."""
        own_row = _nearest_cell(self.height, len(self.columns))
        centre = {count: (_nearest_cell(self.width, count) + 0.5) / count for count in set(self.columns)}
        where = torch.stack([centre[self.columns[row]] for row in own_row.tolist()])
        parts = []
        for row, count in enumerate(self.columns):
            middle = (torch.arange(count) + 0.5) / count
            aside = (where - middle[:, None, None]).abs() * count < radius + 0.5
            parts.append(aside & ((own_row - row).abs() <= radius)[:, None])
        return torch.cat(parts).flatten(1)


def layout(height: int, width: int, count: int) -> Layout:
    """Exactly `count` cells that are about as square as the tokens.

    A regular grid where a product of two numbers comes near the map's shape; else rows differ by one cell.

    Raises:
        ConfigError: more cells than tokens, or none.
    """
    if not 0 < count <= height * width:
        raise ConfigError(f"{count} cells do not fit on a map of {height}×{width} tokens")

    def stretch(rows: int) -> float:
        return abs(math.log(rows * rows * width / (count * height)))

    rows = min(max(round(math.sqrt(count * height / width)), -(-count // width)), height, count)
    whole = [r for r in range(1, min(height, count) + 1) if count % r == 0 and count // r <= width]
    if whole and stretch(min(whole, key=stretch)) <= math.log(STRETCH):
        rows = min(whole, key=stretch)
    return Layout(height, width, tuple(count * (r + 1) // rows - count * r // rows for r in range(rows)))


def soft_k_means(
    tokens: Float[Tensor, "b n d"],
    cells: Layout,
    *,
    radius: int,
    temperature: float | Float[Tensor, "b 1 1"],
    iterations: int = 5,
    weight: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b m n"]:
    """Shares of the tokens in every centre; rows sum to 1.

    Every iteration shares each token out among the cells near it by softmax(−temperature · squared distance);
    a centre is the mean of the tokens by their shares. Logarithms are normalised, so no centre is ever empty.

    Args:
        tokens: of a map in raster order.
        cells: laid over that map.
        radius: cells that a token may be away from its own, in rows and in columns.
        temperature: multiplies squared distances, so it must fit the features' scale; one for all, or one
            for every sample.
        iterations: none leaves the means of adaptive average pooling.
        weight: source tokens that each token stands for.
    """
    tokens = tokens.float()
    weight = torch.ones(tokens.shape[:2], device=tokens.device) if weight is None else weight
    mass = weight.float().clamp(min=torch.finfo(torch.float32).tiny).log()[:, None]
    far = ~cells.near(radius).to(tokens.device)
    outside = ~cells.bins().to(tokens.device)
    shares = mass.masked_fill(outside, -torch.inf).softmax(-1)
    for _ in range(iterations):
        distance = squared_distances(shares @ tokens, tokens)
        belonging = (-temperature * distance).masked_fill(far, -torch.inf).log_softmax(1)
        shares = (belonging + mass).softmax(-1)
    return shares


def neighbour_weights(
    tokens: Float[Tensor, "b n d"],
    centres: Float[Tensor, "b m d"],
    *,
    temperature: float | Float[Tensor, "b 1 1"],
    neighbours: int = 20,
    norm: Literal["l1", "l2"] = "l1",
) -> Float[Tensor, "b n m"]:
    """exp(−temperature · squared distance) of every token to its nearest centres, normalised; ties are kept.

    Args:
        tokens: before clustering.
        centres: of their clusters.
        temperature: multiplies squared distances.
        neighbours: nearest centres that count; all when negative.
        norm: "l1" makes weights sum to 1, "l2" their squares.
    """
    logits = -temperature * squared_distances(tokens.float(), centres.float())
    if 0 <= neighbours < logits.shape[-1]:
        least = logits.topk(neighbours, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if norm == "l1":
        return logits.softmax(-1)
    return F.normalize((logits - logits.amax(-1, keepdim=True)).exp(), dim=-1)


def _spans(size: int, parts: int) -> Bool[Tensor, "p s"]:
    """Bins of adaptive pooling; they overlap where the size is no multiple."""
    part, position = torch.arange(parts)[:, None], torch.arange(size)
    return (part * size // parts <= position) & (position < -(-(part + 1) * size // parts))


def _nearest_cell(size: int, parts: int) -> Int[Tensor, "s"]:
    """The cell of every position, by nearest-neighbour enlargement."""
    cells = torch.arange(parts, dtype=torch.float32)[None, None]
    return F.interpolate(cells, size=size, mode="nearest")[0, 0].long()
