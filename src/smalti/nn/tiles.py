"""Work on large frames tile by tile with exact halos."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor


def tiled(
    function: Callable[[Tensor], Tensor],
    maps: Float[Tensor, "*batch h w"],
    *,
    tile: int,
    halo: int,
    scale: Fraction,
) -> Tensor:
    """What `function(maps)` gives, computed tile by tile when a side is longer than `tile`.

    ```
    ┌─────────── input ──────────┐        function on tile + halo        ┌── output · scale ──┐
    │   ┌─ halo ─┐               │ ─────────────────────────────────►    │  ┌────┐            │
    │   │ ┌tile┐ │               │        the halo is cut off            │  └────┘            │
    ```
    Args:
        function: convolutional, reaching at most `halo` input positions; output = input size · `scale`.
        maps: at least two axes; the last two are tiled.
        tile, halo: input positions; products with `scale` must be whole.
        scale: output positions an input position.
    """
    height, width = maps.shape[-2:]
    if max(height, width) <= tile:
        return function(maps)
    rows = []
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            (y0, y1, ys), (x0, x1, xs) = (
                _window(start, size, tile, halo, scale) for start, size in ((top, height), (left, width))
            )
            row.append(function(maps[..., y0:y1, x0:x1])[..., ys, xs])
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _window(start: int, size: int, tile: int, halo: int, scale: Fraction) -> tuple[int, int, slice]:
    """Input bounds with halo, and where the tile lies in the output of that window."""
    low, high, stop = max(start - halo, 0), min(start + tile + halo, size), min(start + tile, size)
    return low, high, slice(int((start - low) * scale), int((stop - low) * scale))
