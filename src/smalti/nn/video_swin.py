"""Video Swin (Liu et al., 2022): attention within 3-D windows that shift, on maps that halve in space alone.

```
video [b 3 t h w] ─► patches (+ norm) [b t' h/4 w/4 c] ─► stage ─► … ─► stage ─► norm ─► [b t' h' w' c·2ⁿ]
stage: block, shifted block, … ─► merging of 2×2 (none after the last)
```
A window is cut to the map along every axis where the map is no larger, and does not shift there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.transformer import DropPath, Mlp
from smalti.nn.windows import PatchMerging, WindowAttention, join, partition, shifted_pairs


@dataclass(frozen=True)
class VideoSwinConfig:
    """Attributes:
    dim: channels of the first stage; every next one has twice as many.
    depths: blocks of every stage.
    heads: of every stage.
    window: tokens along time, height and width.
    patch: frames and pixels of a patch.
    time_stride: frames from one patch to the next; overlapping patches when less than a patch has.
    mlp_ratio: hidden channels of the MLPs, as a factor.
    qkv_bias: of the fused product.
    patch_norm: a norm behind the patches.
    drop_path: of the last block, rising from 0 at the first.
    """

    dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: tuple[int, int, int] = (8, 7, 7)
    patch: tuple[int, int, int] = (2, 4, 4)
    time_stride: int = 2
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ConfigError(f"{len(self.depths)} stages have the heads of {len(self.heads)}")
        for stage, heads in enumerate(self.heads):
            if self.dim * 2**stage % heads:
                raise ConfigError(f"{heads} heads do not divide {self.dim * 2**stage} channels")
        if not 1 <= self.time_stride <= self.patch[0]:
            raise ConfigError(f"patches of {self.patch[0]} frames cannot be {self.time_stride} frames apart")

    @property
    def channels(self) -> int:
        """Of the last stage."""
        return self.dim * 2 ** (len(self.depths) - 1)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames and pixels from one token to the next."""
        scale = 2 ** (len(self.depths) - 1)
        return self.time_stride, self.patch[1] * scale, self.patch[2] * scale

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens of the last stage along time, height and width."""
        t, h, w = (
            ceil(length / step) for length, step in zip((frames, height, width), self.stride, strict=True)
        )
        return t, h, w


VIDEO_SWIN = {
    "tiny": VideoSwinConfig(dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "small": VideoSwinConfig(dim=96, heads=(3, 6, 12, 24)),
    "base": VideoSwinConfig(),
    "large": VideoSwinConfig(dim=192, heads=(6, 12, 24, 48)),
    "large-384": VideoSwinConfig(dim=192, heads=(6, 12, 24, 48), window=(8, 12, 12)),
}


class Cut(NamedTuple):
    """How a map is cut: side and shift of its windows, and its size with zeros at the ends."""

    side: tuple[int, ...]
    shift: tuple[int, ...]
    padded: tuple[int, ...]


def cut_of(size: Sequence[int], window: Sequence[int]) -> Cut:
    """Windows of a map, no larger than it; they shift by half where there are several."""
    pairs = list(zip(size, window, strict=True))
    side = tuple(min(length, most) for length, most in pairs)
    shift = tuple(0 if length <= most else most // 2 for length, most in pairs)
    padded = tuple(ceil(length / part) * part for length, part in zip(size, side, strict=True))
    return Cut(side, shift, padded)


class ShrinkingAttention(WindowAttention):
    """Attention in windows that may be smaller than the table of biases is for.

    A smaller window takes the first rows and columns of the whole window's index, as the official code does.
    Along height and width these are not the biases of its relative positions.
    """

    def within(
        self, windows: Float[Tensor, "bk n c"], allowed: Bool[Tensor, "k n n"] | None = None
    ) -> Float[Tensor, "bk n c"]:
        """Attend in every window; `allowed` says which pairs may, for every window of a map."""
        places = windows.shape[1]
        bias = self.bias()[:, :, :places, :places]
        if allowed is None:
            return self.forward(windows, bias.to(windows.dtype))
        bias = bias.masked_fill(~allowed[:, None], -torch.inf).to(windows.dtype)
        bias = rearrange(bias, "k h m n -> 1 (k h) m n")  # one for all samples
        q, k, v = (rearrange(x, "(b k) h n c -> b (k h) n c", k=len(allowed)) for x in self.split(windows))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(out, "b (k h) n c -> (b k) n (h c)", h=self.heads))


class VideoSwinBlock(nn.Module):
    """Attention in windows, shifted or not, then an MLP, both residual behind norms.

    Args:
        dim: channels.
        heads: of the attention.
        window: its largest size.
        shifted: move the map by half a window first.
        mlp_ratio: hidden channels of the MLP, as a factor.
        qkv_bias: of the fused product.
        drop_path: share of samples without a branch, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: tuple[int, int, int],
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShrinkingAttention(dim, heads, window, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def mix(
        self, maps: Float[Tensor, "b t h w c"], cut: Cut, allowed: Bool[Tensor, "k n n"] | None
    ) -> Float[Tensor, "b t h w c"]:
        """Attention within windows; `allowed` are the pairs of windows of the shifted map."""
        size = maps.shape[1:-1]
        zeros = [
            n for old, new in zip(reversed(size), reversed(cut.padded), strict=True) for n in (0, new - old)
        ]
        maps = F.pad(maps, (0, 0, *zeros))
        shift = cut.shift if self.shifted else (0, 0, 0)
        if any(shift):
            maps = maps.roll([-s for s in shift], (1, 2, 3))
        windows, _ = partition(maps, cut.side)
        mixed = self.attn.within(windows.flatten(1, -2), allowed if any(shift) else None)
        maps = join(mixed.view_as(windows), cut.padded, cut.padded)
        if any(shift):
            maps = maps.roll(shift, (1, 2, 3))
        return maps[:, : size[0], : size[1], : size[2]]

    def forward(
        self, maps: Float[Tensor, "b t h w c"], cut: Cut, allowed: Bool[Tensor, "k n n"] | None
    ) -> Float[Tensor, "b t h w c"]:
        """Tokens of a window look at each other, then every token by itself."""
        maps = maps + self.drop_path(self.mix(self.norm1(maps), cut, allowed))
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class VideoSwinStage(nn.Module):
    """Blocks on maps of one size, every second one shifted, and the merging behind them."""

    def __init__(self, config: VideoSwinConfig, number: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        dim = config.dim * 2**number
        self.window = config.window
        self.blocks = nn.ModuleList(
            VideoSwinBlock(
                dim,
                config.heads[number],
                config.window,
                bool(index % 2),
                config.mlp_ratio,
                config.qkv_bias,
                rate,
            )
            for index, rate in enumerate(drop_paths)
        )
        self.merge = PatchMerging(dim) if number < len(config.depths) - 1 else nn.Identity()

    def mix(self, maps: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """The blocks."""
        cut = cut_of(maps.shape[1:-1], self.window)
        shifts = any(cut.shift) and len(self.blocks) > 1
        allowed = shifted_pairs(cut.padded, cut.side, cut.shift).to(maps.device) if shifts else None
        for block in self.blocks:
            maps = block(maps, cut, allowed)
        return maps

    def forward(self, maps: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h2 w2 c2"]:
        """The blocks, then the merging."""
        return self.merge(self.mix(maps))


class VideoSwin(nn.Module):
    """The encoder: video to maps of a coarser grid, of any length and size.

    Time and space are filled with zeros at their ends, up to whole patches; so are odd maps where they merge.
    """

    def __init__(self, config: VideoSwinConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VideoSwinConfig()
        self.patch = nn.Conv3d(3, config.dim, config.patch, (config.time_stride, *config.patch[1:]))
        self.patch_norm = nn.LayerNorm(config.dim) if config.patch_norm else nn.Identity()
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").split(
            list(config.depths)
        )
        self.stages = nn.ModuleList(
            VideoSwinStage(config, number, part.tolist()) for number, part in enumerate(rates)
        )
        self.norm = nn.LayerNorm(config.channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t2 h2 w2 c"]:
        """Maps of patches; every started stride of frames and every started patch of pixels gives one."""
        zeros = []
        for length, kernel, step in zip(
            video.shape[2:], self.patch.kernel_size, self.patch.stride, strict=True
        ):
            zeros = [0, (ceil(length / step) - 1) * step + kernel - length, *zeros]
        maps = self.patch(F.pad(video.to(self.patch.weight.dtype), [max(n, 0) for n in zeros]))
        return self.patch_norm(rearrange(maps, "b c t h w -> b t h w c"))

    def pyramid(self, video: Float[Tensor, "b 3 t h w"]) -> list[Float[Tensor, "b t2 _h _w _c"]]:
        """Maps of every stage before it merges, the last one behind the norm."""
        maps, found = self.embed(video), []
        for stage in self.stages:
            found.append(stage.mix(maps))  # pyright: ignore[reportCallIssue]
            maps = stage.merge(found[-1])  # pyright: ignore[reportCallIssue]
        return [*found[:-1], self.norm(found[-1])]

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t2 h2 w2 c"]:
        """Maps of the last stage."""
        maps = self.embed(video)
        for stage in self.stages:
            maps = stage(maps)
        return self.norm(maps)
