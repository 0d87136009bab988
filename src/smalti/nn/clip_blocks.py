"""Weights of blocks as open_clip wrote them: names of their parts, and tables of positions on a square.

```
transformer.3.attn.in_proj_weight ──► blocks.3.attn.qkv.weight      positions [g·g d] ──► [h·w d]
```
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError

CLIP_BLOCKS = (
    (r"\btransformer\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""Rules for `renamed`: blocks around `torch.nn.MultiheadAttention` → `smalti.nn.transformer.Block`."""


def side_of_square(places: int) -> int:
    """Side of the square that so many places make.

    Raises:
        ConfigError: they make none.
    """
    side = round(max(places, 0) ** 0.5)
    if side < 1 or side * side != places:
        raise ConfigError(f"a table of {places} positions is not one of a square picture")
    return side


def positions_of_grid(table: Float[Tensor, "n d"], grid: tuple[int, int]) -> Float[Tensor, "m d"]:
    """A learned table of a square for a grid of any size, by bicubic interpolation."""
    side = side_of_square(len(table))
    if grid == (side, side):
        return table
    maps = rearrange(table.float(), "(h w) d -> 1 d h w", h=side)
    maps = F.interpolate(maps, grid, mode="bicubic", align_corners=False)
    return rearrange(maps, "1 d h w -> (h w) d").to(table.dtype)
