"""A source as tiles of one size, and back: what tokenizers of fixed-size inputs are trained on.

```
pixels [b 3 t h w] ──► fit ──► tiles [m 3 T S R], m = b · groups · rows · columns ──► … ──► joined, cropped
```
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from smalti.tokenizers.extent import fit
from smalti.tokens import Source

Size = tuple[int, int, int]


def cut_tiles(pixels: Float[Tensor, "b 3 t h w"], size: Size) -> tuple[Float[Tensor, "m 3 _t _h _w"], Source]:
    """Tiles of `size` frames, rows and columns, and what was added to fill them."""
    padded, source = fit(pixels, size)
    t, s, r = size
    return rearrange(padded, "b c (g t) (y s) (x r) -> (b g y x) c t s r", t=t, s=s, r=r), source


def join_tiles(tiles: Float[Tensor, "m 3 _t _h _w"], source: Source) -> Float[Tensor, "b 3 t h w"]:
    """The source of tiles, with gradients and not clamped."""
    sides = zip((source.frames, source.height, source.width), source.pad, tiles.shape[2:], strict=True)
    g, y, x = ((side + pad) // tile for side, pad, tile in sides)
    whole = rearrange(tiles, "(b g y x) c t s r -> b c (g t) (y s) (x r)", g=g, y=y, x=x)
    return whole[:, :, : source.frames, : source.height, : source.width]
