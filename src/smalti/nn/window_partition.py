"""A map cut into square windows, and put together again."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def partition(
    maps: Float[Tensor, "b h w c"], side: int
) -> tuple[Float[Tensor, "bk side side c"], tuple[int, int]]:
    """Windows in raster order, zeros added below and to the right; and the height and width with them."""
    height, width = maps.shape[1:3]
    padded = F.pad(maps, (0, 0, 0, -width % side, 0, -height % side))
    windows = rearrange(padded, "b (i s) (j r) c -> (b i j) s r c", s=side, r=side)
    return windows, (padded.shape[1], padded.shape[2])


def join(
    windows: Float[Tensor, "bk s s c"], padded: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "b h w c"]:
    """Undo `partition`, for windows of any side.

    Args:
        windows: in raster order.
        padded: height and width that the windows fill.
        size: height and width to crop to.
    """
    rows, columns = padded[0] // windows.shape[1], padded[1] // windows.shape[2]
    whole = rearrange(windows, "(b i j) s r c -> b (i s) (j r) c", i=rows, j=columns)
    return whole[:, : size[0], : size[1]]
