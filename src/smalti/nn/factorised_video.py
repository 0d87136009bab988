"""Video transformers whose layers look along space or along time: C-ViViT's trunk (Villegas et al., 2022).

```
frame 0 ─► patches ─┐                                                              ┌─► frame 0
frames 1… ─► tubes ─┴─► x [b t h w d] ─► space layers ─► time layers ─► … ─► pixels┴─► frames 1…
layer: x + PEG(x) ─► x + attention(x) ─► x + MLP(x)
```
Time is causal, and what later parts of a video need of the past is kept in a `State`, so a video may come
part by part. The first frame has patches of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.causal_conv import State
from smalti.nn.cosine_attention import CosineAttention, GainNorm, GatedFeed
from smalti.nn.frame_and_tubes import VideoPatches, VideoPixels
from smalti.nn.place_bias import ContinuousBias, Rows, linear_slopes, past_bias
from smalti.nn.rotary_pairs import frame_angles
from smalti.nn.windows import WindowAttention, join, partition

Grid = Float[Tensor, "b t h w d"]


class PlaceConvolution(nn.Conv3d):
    """A position-encoding generator: a depthwise 3×3×3 convolution on the grid (PEG: Chu et al., 2021).

    Args:
        dim: channels.
        causal: it looks at the two frames before, else at one before and one after.
        scrambled: take the memory order (h w t) for (t h w), as the public implementations do in time
            layers. What is mixed then are no neighbours, and the past depends on the future; weights that
            were trained so need it.
    """

    def __init__(self, dim: int, causal: bool = True, scrambled: bool = False) -> None:
        super().__init__(dim, dim, 3, padding=(0, 1, 1), groups=dim)
        self.causal, self.scrambled = causal, scrambled

    def forward(self, x: Grid, state: State | None = None) -> Grid:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the next part; of the whole when no state is given."""
        if not self.scrambled:
            return self._convolved(x, state)
        frames, height, width = x.shape[1:4]
        taken = rearrange(x, "b t h w d -> b h w t d").reshape(x.shape)
        mixed = self._convolved(taken, None).reshape(len(x), height, width, frames, -1)
        return rearrange(mixed, "b h w t d -> b t h w d")

    def _convolved(self, x: Grid, state: State | None) -> Grid:
        past = None if state is None else state.get(self)
        if past is not None:
            x = torch.cat([past, x], 1)
        else:
            x = F.pad(x, (0, 0, 0, 0, 0, 0, *((2, 0) if self.causal else (1, 1))))
        if state is not None:
            state[self] = x[:, -2:].clone()
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class SpaceAttention(CosineAttention):
    """Every place of a frame asks all of that frame.

    Args:
        dim, heads, dim_head: of the attention.
        bias: has a continuous position bias of its own.
        rotary: turns queries and keys by their place, before they are normalised.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, bias: bool = False, rotary: bool = False) -> None:
        super().__init__(dim, heads, dim_head)
        self.bias = ContinuousBias(dim, heads) if bias else None
        self.rotary = rotary

    def forward(self, x: Grid, state: State | None = None, bias: Rows | None = None) -> Grid:
        """Attend; `bias` is what layers share, where they do."""
        frames, height, width = x.shape[1:4]
        if self.bias is not None:
            bias = self.bias((height, width))
        channels = len(self.q_scale)
        angles = None
        if self.rotary:
            angles = frame_angles(height, width, channels, 10000.0, "interleaved", x.device)
        flat = rearrange(x, "b t h w d -> (b t) (h w) d")
        out = self.attend(*self.split(flat, angles=angles), bias)
        return rearrange(out, "(b t) (h w) d -> b t h w d", t=frames, h=height)


class FrameWindows(nn.Module):
    """Every place of a frame asks its window, with Swin's bias; windows at the edge may be smaller.

    Args:
        dim, heads: of the attention.
        window: side, in places.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = GainNorm(dim)
        self.within = WindowAttention(dim, heads, (window, window), qkv_bias=False)

    def forward(self, x: Grid, state: State | None = None, bias: Rows | None = None) -> Grid:
        """Attend."""
        size = x.shape[2:4]
        windows, padded = partition(self.norm(x).flatten(0, 1), self.window)
        allowed = None
        if padded != tuple(size):
            real, _ = partition(torch.ones(1, *size, 1, device=x.device), self.window)
            places = real.flatten(1) > 0
            allowed = places[:, None].expand(-1, places.shape[1], -1)
        mixed = self.within.within(windows.flatten(1, 2), allowed).view_as(windows)
        return join(mixed, padded, size).unflatten(0, x.shape[:2])


class TimeAttention(CosineAttention):
    """Every place asks itself at and before its frame.

    Args:
        dim, heads, dim_head: of the attention.
        falling: logits fall with distance in time (ALiBi).
        lookback: frames of the grid that are seen; all when not given, and then a state grows with time.
    """

    slopes: Tensor

    def __init__(
        self, dim: int, heads: int, dim_head: int, falling: bool = True, lookback: int | None = None
    ) -> None:
        super().__init__(dim, heads, dim_head)
        self.lookback = lookback
        self.register_buffer("slopes", linear_slopes(heads) * falling, persistent=False)

    def forward(self, x: Grid, state: State | None = None, bias: Rows | None = None) -> Grid:
        """Attend to this part and what is kept of those before."""
        height, width = x.shape[2:4]
        q, k, v = self.split(rearrange(x, "b t h w d -> (b h w) t d"))
        if state is not None:
            if self in state:
                k, v = (torch.cat([past, new], 2) for past, new in zip(state[self], (k, v), strict=True))
            kept = 0 if self.lookback is None else max(k.shape[2] + 1 - self.lookback, 0)
            state[self] = (k[:, :, kept:].clone(), v[:, :, kept:].clone())
        out = self.attend(q, k, v, past_bias(self.slopes, q.shape[2], k.shape[2], self.lookback, q))
        return rearrange(out, "(b h w) t d -> b t h w d", h=height, w=width)


class Layer(nn.Module):
    """Convolution for places, attention, gated MLP; all residual.

    Args:
        dim: channels.
        attention: along space or time.
        peg: none in some layers.
    """

    def __init__(self, dim: int, attention: nn.Module, peg: PlaceConvolution | None = None) -> None:
        super().__init__()
        self.peg = peg
        self.attention = attention
        self.feed = GatedFeed(dim)

    def forward(self, x: Grid, state: State | None = None, bias: Rows | None = None) -> Grid:
        """The next part."""
        if self.peg is not None:
            x = x + self.peg(x, state)
        x = x + self.attention(x, state, bias)
        return x + self.feed(x)


class Layers(nn.Module):
    """Layers and the norm after them."""

    def __init__(self, dim: int, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm_out = GainNorm(dim)

    def forward(self, x: Grid, state: State | None = None, bias: Rows | None = None) -> Grid:
        """The next part; `bias` is what layers share."""
        for layer in self.layers:
            x = layer(x, state, bias)
        return self.norm_out(x)


class VideoEncoder(nn.Module):
    """Pixels to tokens: patches, then layers along space, then layers along time."""

    def __init__(self, patches: VideoPatches, space: Layers, time: Layers) -> None:
        super().__init__()
        self.patches, self.space, self.time = patches, space, time

    def forward(
        self, pixels: Float[Tensor, "b 3 f y x"], state: State | None = None, bias: Rows | None = None
    ) -> Grid:
        """Tokens of the next frames; `bias` is what the layers along space share."""
        return self.time(self.space(self.patches(pixels, state), state, bias), state)


class VideoDecoder(nn.Module):
    """Tokens to pixels: layers along time, then layers along space."""

    def __init__(self, time: Layers, space: Layers, pixels: VideoPixels) -> None:
        super().__init__()
        self.time, self.space, self.pixels = time, space, pixels

    def forward(
        self, x: Grid, state: State | None = None, bias: Rows | None = None
    ) -> Float[Tensor, "b 3 f y x"]:
        """The next frames; `bias` is what the layers along space share."""
        return self.pixels(self.space(self.time(x, state), state, bias), state)
