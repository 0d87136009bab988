"""Strip self-attention (S2AFormer): few keys, and queries and keys of few channels; values keep theirs.

```
x [b n c] ─┬─► to_q ─────────────► queries [b heads n e] ──┐
           └─► reduce ─┬─► to_k ─► keys    [b heads m e] ──┴─► softmax ─► × values ─► proj ─► [b n c]
                       └─► to_v ─► values  [b heads m c/heads] ─────────────┘
```
m = n / ratio². With e = 1 the logits of a head are of rank one: every query is a single number.
"""

from __future__ import annotations

from typing import Literal, get_args

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest

Reduce = Literal["dwconv", "avg", "max"]


class Shrink(nn.Module):
    """A map → one with sides a ratio smaller, by a depthwise convolution or a pool; then a norm.

    What the ratio does not divide is continued: by zeros for the convolution, by nothing for the pools.
    """

    def __init__(self, dim: int, ratio: int, how: Reduce = "dwconv") -> None:
        super().__init__()
        if how not in get_args(Reduce):
            raise ConfigError(f"no way to reduce {how!r}: {nearest(how, get_args(Reduce))}")
        self.ratio, self.how = ratio, how
        self.conv = nn.Conv2d(dim, dim, ratio, ratio, groups=dim) if how == "dwconv" else None
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m c"]:
        """Tokens of the smaller map."""
        if self.conv is not None:
            right, bottom = (-side % self.ratio for side in (maps.shape[-1], maps.shape[-2]))
            maps = self.conv(F.pad(maps, (0, right, 0, bottom)))
        elif self.how == "avg":
            maps = F.avg_pool2d(maps, self.ratio, ceil_mode=True)
        else:
            maps = F.max_pool2d(maps, self.ratio, ceil_mode=True)
        return self.norm(rearrange(maps, "b c h w -> b (h w) c"))


class StripSelfAttention(nn.Module):
    """Self-attention that is compressed in space (keys and values) and in channels (queries and keys).

    Args:
        dim: channels.
        heads: that divide them.
        ratio: of the sides of the map that keys and values come from; 1 leaves it as it is.
        qk_channels: of queries and keys, a head.
        reduce: by a depthwise convolution ("dwconv") or by pooling ("avg", "max").

    Raises:
        ConfigError: heads that do not divide the channels, or an unknown way to reduce.
    """

    def __init__(
        self, dim: int, heads: int, ratio: int, qk_channels: int = 1, reduce: Reduce = "dwconv"
    ) -> None:
        super().__init__()
        if dim % heads or min(heads, ratio, qk_channels) < 1:
            raise ConfigError(
                f"{heads} heads must divide {dim} channels; ratio {ratio} and qk_channels {qk_channels} "
                "must be 1 or more"
            )
        self.heads, self.qk_channels = heads, qk_channels
        self.reduce = Shrink(dim, ratio, reduce) if ratio > 1 else None
        self.to_q, self.to_k = (nn.Linear(dim, heads * qk_channels) for _ in range(2))
        self.to_v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Every token of a map of some size asks the smaller map."""
        source = x
        if self.reduce is not None:
            source = self.reduce(rearrange(x, "b (h w) c -> b c h w", h=size[0]))
        parts = (self.to_q(x), self.to_k(source), self.to_v(source))
        q, k, v = (rearrange(part, "b n (h e) -> b h n e", h=self.heads) for part in parts)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n e -> b n (h e)"))


class LocalInteraction(nn.Module):
    """Convolutions that bring local detail back: 1×1, depthwise 3×3, 1×1; batch norms and GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(dim, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map of the same size; what is added to it stands outside."""
        return self.layers(maps)
