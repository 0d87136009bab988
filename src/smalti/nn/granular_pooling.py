"""Maxima over neighbours and over segments, of sequences and of maps, at linear cost.

```
x [b n d] ─┬─► local_max    of every token and its neighbours        [b n d]
           ├─► piece_max    of equal pieces, by their number         [b n d]
           └─► segment_max  of segments, by an index of every token  [b n d]
maps [b h w d] ─► local_max along both axes, window_max of windows
```
"""

from __future__ import annotations

from functools import reduce

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def local_max(x: Float[Tensor, "b *size d"], kernel: int = 3) -> Float[Tensor, "b *size d"]:
    """The largest of each channel within an odd kernel along every axis; nothing lies beyond the ends."""
    for axis in range(1, x.ndim - 1):
        around = [0, 0] * (x.ndim - 1 - axis) + [kernel // 2, kernel // 2]
        padded = F.pad(x, around, value=-torch.inf)
        x = reduce(torch.maximum, (padded.narrow(axis, i, x.shape[axis]) for i in range(kernel)))
    return x


def piece_length(length: int, pieces: int) -> int:
    """Tokens a piece, as official: one more than `length / pieces` rounded down, so pieces may be fewer."""
    return length // pieces + 1


def piece_max(x: Float[Tensor, "b n d"], pieces: int) -> Float[Tensor, "b n d"]:
    """The largest of each channel within equal pieces, for every token of the piece."""
    length = piece_length(x.shape[1], pieces)
    padded = F.pad(x, (0, 0, 0, -x.shape[1] % length), value=-torch.inf)
    best = padded.unflatten(1, (-1, length)).amax(2)
    return best.repeat_interleave(length, 1)[:, : x.shape[1]]


def segment_max(x: Float[Tensor, "b n d"], index: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """The largest of each channel within tokens of one index in 0 … n − 1, for every token of them."""
    places = index[..., None].expand_as(x)
    best = torch.zeros_like(x).scatter_reduce(1, places, x, "amax", include_self=False)
    return best.gather(1, places)


def window_max(maps: Float[Tensor, "b h w d"], side: int) -> Float[Tensor, "b h w d"]:
    """The largest of each channel within square windows, those at the end cut short, for every token."""
    height, width = maps.shape[1:3]
    best = F.max_pool2d(rearrange(maps, "b h w d -> b d h w"), side, ceil_mode=True)
    best = best.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]
    return rearrange(best, "b d h w -> b h w d")
