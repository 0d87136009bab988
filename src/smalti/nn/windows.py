"""Maps cut into windows and put together again, and what Swin does in them (Liu et al., 2021); 2-D and 3-D.

```
maps [b *size c] ── partition ──► windows [b·k *side c] ── join ──► maps
                 ── surroundings ► what lies around every window, overlapping [b·k reach² c]

WindowBlock: norm ─► shift ─► partition ─► attention + bias by relative position ─► join ─► shift back ─► MLP
```
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.transformer import Attention, DropPath, LayerScale, Mlp

AXES = ("t", "h", "w")


def _sides(side: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (side,) * axes if isinstance(side, int) else tuple(side)


def _axes(count: int) -> tuple[str, str, str]:
    """Names for einops: of a whole map, of windows along each axis, of places within."""
    names = AXES[-count:]
    return (
        " ".join(f"({a}n {a}s)" for a in names),
        " ".join(f"{a}n" for a in names),
        " ".join(f"{a}s" for a in names),
    )


def _padded(maps: Float[Tensor, "b *size c"], sides: Sequence[int]) -> Float[Tensor, "b *whole c"]:
    """Zeros added at the end of every axis, up to whole windows."""
    sizes = maps.shape[1:-1]
    after = [n for s, w in zip(reversed(sizes), reversed(sides), strict=True) for n in (0, -s % w)]
    return F.pad(maps, (0, 0, *after))


def _cropped(maps: Float[Tensor, "b *whole c"], size: Sequence[int]) -> Float[Tensor, "b *size c"]:
    return maps[(slice(None), *(slice(0, length) for length in size))]


def partition(
    maps: Float[Tensor, "b *size c"], side: int | Sequence[int]
) -> tuple[Float[Tensor, "bk *side c"], tuple[int, ...]]:
    """Windows in raster order, zeros added at the end of every axis; and the size with them.

    Args:
        maps: of one to three axes.
        side: of the windows, along all axes or along each.
    """
    axes = maps.ndim - 2
    sides = _sides(side, axes)
    padded = _padded(maps, sides)
    whole, outer, inner = _axes(axes)
    lengths = {f"{a}s": w for a, w in zip(AXES[-axes:], sides, strict=True)}
    windows = rearrange(padded, f"b {whole} c -> (b {outer}) {inner} c", **lengths)
    return windows, tuple(padded.shape[1:-1])


def join(
    windows: Float[Tensor, "bk *side c"], padded: Sequence[int], size: Sequence[int]
) -> Float[Tensor, "b *size c"]:
    """Undo `partition`, for windows of any side.

    Args:
        windows: in raster order.
        padded: size that the windows fill.
        size: to crop to.
    """
    sides = windows.shape[1:-1]
    whole, outer, inner = _axes(len(sides))
    counts = {f"{a}n": p // s for a, p, s in zip(AXES[-len(sides) :], padded, sides, strict=True)}
    return _cropped(rearrange(windows, f"(b {outer}) {inner} c -> b {whole} c", **counts), size)


def surroundings(
    maps: Float[Tensor, "b h w c"],
    side: int,
    reach: int,
    *,
    beyond: bool = False,
    size: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "bk n c"], Bool[Tensor, "bk n"]]:
    """What lies around every window of a map, `reach` tokens across, and which of it is real.

    Args:
        maps: of windows of `side`.
        side: from one window to the next.
        reach: tokens across.
        beyond: look over the edge, where nothing is real; else the look is moved inside the map.
        size: height and width that are real; all when not given.
    """
    places = []
    for length in maps.shape[1:3]:
        across = reach if beyond else min(reach, length)
        start = torch.arange(0, length, side, device=maps.device) - (across - side) // 2
        start = start if beyond else start.clamp(0, length - across)
        places.append(start[:, None] + torch.arange(across, device=maps.device))
    height, width = maps.shape[1:3] if size is None else size
    rows, columns = places[0][:, None, :, None], places[1][None, :, None, :]
    real = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    seen = maps[:, rows.clamp(0, maps.shape[1] - 1), columns.clamp(0, maps.shape[2] - 1)]
    flat = rearrange(seen, "b i j r s c -> (b i j) (r s) c")
    return flat, rearrange(real, "i j r s -> (i j) (r s)").repeat(len(maps), 1)


def relative_positions(side: Sequence[int]) -> Int[Tensor, "n n"]:
    """Number of the relative position of every pair of places in a window: a row of a table of biases."""
    axes = torch.meshgrid(*(torch.arange(length) for length in side), indexing="ij")
    number = torch.zeros(1, 1, dtype=torch.int64)
    for places, length in zip(axes, side, strict=True):
        flat = places.flatten()
        number = number * (2 * length - 1) + (flat[:, None] - flat[None] + length - 1)
    return number


def shifted_pairs(size: Sequence[int], side: Sequence[int], shift: Sequence[int]) -> Bool[Tensor, "k n n"]:
    """Pairs in every window of a shifted map that were neighbours before the shift."""
    region = torch.zeros(1, *size, 1)
    for axis, (length, window, moved) in enumerate(zip(size, side, shift, strict=True)):
        place = torch.arange(length)
        part = (place >= length - window).float() + (place >= length - moved) * (moved > 0)
        shape = [1] * (len(size) + 2)
        shape[axis + 1] = length
        region = region * 3 + part.view(shape)
    flat = partition(region, side)[0].flatten(1)
    return flat[:, :, None] == flat[:, None]


class RelativeBias(nn.Module):
    """A learned bias of attention for every relative position in a window, by head.

    Args:
        side: of the window, along every axis.
        heads: of the attention.
    """

    index: Tensor

    def __init__(self, side: Sequence[int], heads: int) -> None:
        super().__init__()
        self.side = tuple(side)
        index = relative_positions(side)
        self.table = nn.Parameter(torch.zeros(prod(2 * length - 1 for length in self.side), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Float[Tensor, "1 heads n n"]:
        """What to add to the logits."""
        return rearrange(self.table[self.index], "m n h -> 1 h m n")


class WindowAttention(Attention):
    """Self-attention within windows, with a bias by relative position.

    Args:
        dim: channels.
        heads: that divide them.
        side: of the window, along every axis.
        qkv_bias: of the fused product.
    """

    def __init__(self, dim: int, heads: int, side: Sequence[int], qkv_bias: bool = True) -> None:
        super().__init__(dim, heads, qkv_bias)
        self.bias = RelativeBias(side, heads)

    def within(
        self, windows: Float[Tensor, "bk n c"], allowed: Bool[Tensor, "k n n"] | None = None
    ) -> Float[Tensor, "bk n c"]:
        """Attend in every window; `allowed` says which pairs may, for every window of a map."""
        bias = self.bias()
        if allowed is not None:
            bias = bias.masked_fill(~allowed[:, None], -torch.inf)
            bias = bias.repeat(len(windows) // len(allowed), 1, 1, 1)
        return self.forward(windows, bias.to(windows.dtype))


class WindowBlock(nn.Module):
    """Swin's block on maps of any size.

    Args:
        dim: channels.
        heads: of the attention.
        side: of the windows, along all axes or along each.
        shift: that the map is moved by first; none along an axis that one window covers.
        axes: of the maps.
        mlp_ratio: hidden channels of the MLP, as a factor.
        qkv_bias: of the fused product.
        eps: of both norms.
        layer_scale: start of both LayerScales; none when not given.
        drop_path: share of samples without a branch, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int | Sequence[int] = 7,
        shift: int | Sequence[int] = 0,
        axes: int = 2,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eps: float = 1e-5,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        scale = nn.Identity if layer_scale is None else lambda: LayerScale(dim, layer_scale)
        self.side, self.shift = _sides(side, axes), _sides(shift, axes)
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = WindowAttention(dim, heads, self.side, qkv_bias)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def mix(self, maps: Float[Tensor, "b *size c"]) -> Float[Tensor, "b *size c"]:
        """Attention within the windows of the shifted map."""
        size = maps.shape[1:-1]
        maps = _padded(maps, self.side)
        padded, axes = maps.shape[1:-1], tuple(range(1, 1 + len(size)))
        shift = [0 if p <= w else s for p, w, s in zip(padded, self.side, self.shift, strict=True)]
        allowed = None
        if any(shift):
            maps = maps.roll([-s for s in shift], axes)
            allowed = shifted_pairs(padded, self.side, shift).to(maps.device)
        windows, _ = partition(maps, self.side)
        mixed = self.attn.within(windows.flatten(1, -2), allowed).view_as(windows)
        maps = join(mixed, padded, padded)
        return _cropped(maps.roll(shift, axes) if any(shift) else maps, size)

    def forward(self, maps: Float[Tensor, "b *size c"]) -> Float[Tensor, "b *size c"]:
        """Tokens of a window look at each other, then every token by itself."""
        maps = maps + self.drop_path(self.ls1(self.mix(self.norm1(maps))))
        return maps + self.drop_path(self.ls2(self.mlp(self.norm2(maps))))


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one of twice the channels; odd maps get a row or column of zeros.

    Args:
        dim: channels before.
        eps: of the norm.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, maps: Float[Tensor, "*batch h w c"]) -> Float[Tensor, "*batch h2 w2 c2"]:
        """Half of the height and width."""
        height, width = maps.shape[-3:-1]
        maps = F.pad(maps, (0, 0, 0, width % 2, 0, height % 2))
        four = rearrange(maps, "... (h i) (w j) c -> ... h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(four))
