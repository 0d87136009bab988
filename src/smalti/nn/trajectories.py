"""Attention along trajectories: every token asks, in each key frame, the one token it comes from (TTVSR).

```
flow ─► LocationMap: token ─► its place in every key frame ──┐
query [b c h w] ─► tokens ─► cosine with the k tokens there ─┴─► the likest ─► its values of all scales
state [b c h w] ─► + cosine × convolution of these values ◄──────────────────────┘
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError

SCALES = (1.0, 1.5, 2.0)


def square_tokens(maps: Float[Tensor, "b c h w"], stride: int) -> Float[Tensor, "b n d"]:
    """Squares of `stride` pixels a side in rows, their channels first: d = c · stride²."""
    return rearrange(maps, "b c (y p) (x q) -> b (y x) (c p q)", p=stride, q=stride)


def cross_scale_tokens(
    maps: Float[Tensor, "b c h w"], stride: int, scales: Sequence[float] = SCALES
) -> list[Float[Tensor, "b n d"]]:
    """Tokens of every scale: windows around each square, as many times as large, shrunk to the square.

    Args:
        maps: whose sides the stride divides.
        stride: sides of the squares, in pixels.
        scales: sides of the windows in sides of the squares; outside the map stands zero.
    """
    return [_windows(maps, stride, round(stride * scale)) for scale in scales]


def _windows(maps: Float[Tensor, "b c h w"], stride: int, side: int) -> Float[Tensor, "b n d"]:
    if side == stride:
        return square_tokens(maps, stride)
    before = (side - stride) // 2
    after = side - stride - before
    windows = F.unfold(F.pad(maps, (before, after, before, after)), side, stride=stride)
    windows = rearrange(windows, "b (c p q) n -> (b n) c p q", p=side, q=side)
    shrunk = F.adaptive_avg_pool2d(windows, stride)
    return rearrange(shrunk, "(b n) c p q -> b n (c p q)", b=len(maps))


def nearest_places(location: Float[Tensor, "b k 2 y x"]) -> Int[Tensor, "b k y x"]:
    """Places (x, y) in tokens → the index y · width + x of the nearest token; −1 outside."""
    height, width = location.shape[-2:]
    x, y = location.round().long().unbind(2)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, y * width + x, -1)


@dataclass(frozen=True)
class LocationMap:
    """Where every token of the current frame lay in each of k key frames.

    Attributes:
        places: index of that token, row by row.
    """

    places: Int[Tensor, "b k y x"]

    @classmethod
    def empty(cls, batch: int, height: int, width: int, device: torch.device | None = None) -> LocationMap:
        """Of no key frame yet, for maps of a height and width in tokens."""
        return cls(torch.zeros(batch, 0, height, width, dtype=torch.long, device=device))

    def advance(self, flow: Float[Tensor, "b 2 y x"]) -> LocationMap:
        """To the next frame, whose tokens lie at (x, y) + flow, in tokens, in the current one."""
        batch, count, height, width = self.places.shape
        columns = torch.arange(width, device=flow.device) + flow[:, 0].float()
        rows = torch.arange(height, device=flow.device)[:, None] + flow[:, 1].float()
        columns, rows = columns.clamp(0, width - 1).round(), rows.clamp(0, height - 1).round()
        source = (rows * width + columns).long().view(batch, 1, -1).expand(-1, count, -1)
        return LocationMap(self.places.flatten(2).gather(2, source).view_as(self.places))

    def add_keyframe(self) -> LocationMap:
        """The current frame becomes a key frame: its tokens lie where they are."""
        batch, _, height, width = self.places.shape
        here = torch.arange(height * width, device=self.places.device).view(1, 1, height, width)
        return LocationMap(torch.cat([self.places, here.expand(batch, -1, -1, -1)], 1))


@dataclass(frozen=True)
class KeyFrames:
    """Tokens of the k key frames so far.

    Attributes:
        keys: of length 1, to be compared with.
        values: of every scale, to be taken.
    """

    keys: Float[Tensor, "b k n d"]
    values: tuple[Float[Tensor, "b k n d"], ...]

    def then(self, other: KeyFrames) -> KeyFrames:
        """With those of another after its own."""
        values = zip(self.values, other.values, strict=True)
        return KeyFrames(torch.cat([self.keys, other.keys], 1), tuple(torch.cat(pair, 1) for pair in values))


class TrajectoryAttention(nn.Module):
    """Hard attention along trajectories (TTVSR's LTAM): k comparisons a token, whatever the map's size.

    Args:
        channels: of the maps.
        stride: side of a token in pixels.
        scales: of the values' windows, in strides.

    Raises:
        ConfigError: windows that are no whole number of pixels, or smaller than a token.
    """

    def __init__(self, channels: int, stride: int = 4, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if not scales or any(s < 1 or stride * s != int(stride * s) for s in scales):
            raise ConfigError(
                f"scales {tuple(scales)} must be 1 or more, and whole pixels at a stride of {stride}"
            )
        self.stride, self.scales = stride, tuple(scales)
        self.fuse = nn.Conv2d(len(self.scales) * channels, channels, 3, padding=1)

    def remember(self, feature: Float[Tensor, "b c h w"], state: Float[Tensor, "b c h w"]) -> KeyFrames:
        """A key frame: keys of the frame's own feature, values of its propagated state."""
        values = cross_scale_tokens(state, self.stride, self.scales)
        return KeyFrames(
            F.normalize(square_tokens(feature, self.stride), dim=-1)[:, None],
            tuple(tokens[:, None] for tokens in values),
        )

    def forward(
        self,
        feature: Float[Tensor, "b c h w"],
        state: Float[Tensor, "b c h w"],
        frames: KeyFrames,
        places: Int[Tensor, "b k y x"],
    ) -> Float[Tensor, "b c h w"]:
        """The state with what the likest token on every trajectory adds.

        Args:
            feature: that asks.
            state: that is added to.
            frames: key frames.
            places: of every token in them, as in `LocationMap`; −1 finds zeros.
        """
        height = feature.shape[-2] // self.stride
        query = F.normalize(square_tokens(feature, self.stride), dim=-1)
        places = places.flatten(2)
        scores = [
            torch.einsum("bnd,bnd->bn", query, _read(keys, place)) * (place >= 0)
            for keys, place in zip(frames.keys.unbind(1), places.unbind(1), strict=True)
        ]
        weight, best = torch.stack(scores, 1).max(1)
        place = places.gather(1, best[:, None])[:, 0]
        index = best * query.shape[1] + place
        values = torch.cat(
            [
                rearrange(
                    _read(tokens.flatten(1, 2), index, place >= 0),
                    "b (y x) (c p q) -> b c (y p) (x q)",
                    y=height,
                    p=self.stride,
                    q=self.stride,
                )
                for tokens in frames.values
            ],
            1,
        )
        spread = repeat(weight, "b (y x) -> b 1 (y p) (x q)", y=height, p=self.stride, q=self.stride)
        return state + self.fuse(values) * spread


def _read(
    tokens: Float[Tensor, "b m d"], index: Int[Tensor, "b n"], inside: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b n d"]:
    """Tokens at some indices; zeros where they are not inside."""
    found = tokens.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1]))
    return found if inside is None else found * inside[..., None]
