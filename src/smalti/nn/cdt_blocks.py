"""Blocks of CDT: causal residual blocks normed over channels, steps in space and time, linear attention.

```
x ─┬─► conv 3³ ─► norm ─► relu ─► + time ─► conv 3³ ─► norm ─► relu ─┬─► [b d t h w]
   └──────────────────── 1³ where channels change ──────────────────┘
```
No position sees another but through causal convolutions and attention inside a frame, so all of it streams.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.causal_conv import CausalConv3d, Pad, State, begins

Enlarge = Literal["nearest", "transposed"]
EPSILON = 1e-5


class ChannelNorm(nn.Module):
    """Every position's channels with mean 0 and deviation 1, then a learned scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Normed."""
        mean = x.mean(1, keepdim=True)
        variance = x.var(1, unbiased=False, keepdim=True)
        scale, shift = (part[:, None, None, None] for part in (self.weight, self.bias))
        return (x - mean) / (variance + EPSILON).sqrt() * scale + shift


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        channels, out: that come in, and go out.
        pad: of every convolution, in time and space.
        embedding: channels of the diffusion time's embedding; none when not given.
        wide: the first kernel has 7 rows and columns instead of 3.
    """

    def __init__(
        self, channels: int, out: int, pad: Pad, embedding: int | None = None, wide: bool = False
    ) -> None:
        super().__init__()
        side = 7 if wide else 3
        self.time = nn.Linear(embedding, out) if embedding is not None else None
        self.conv1 = CausalConv3d(channels, out, (3, side, side), time_pad=pad, edges=pad)
        self.norm1 = ChannelNorm(out)
        self.conv2 = CausalConv3d(out, out, time_pad=pad, edges=pad)
        self.norm2 = ChannelNorm(out)
        self.shortcut = CausalConv3d(channels, out, (1, 1, 1)) if channels != out else None

    def forward(
        self,
        x: Float[Tensor, "b c t h w"],
        state: State | None = None,
        time: Float[Tensor, "b e"] | None = None,
    ) -> Tensor:
        """The next part."""
        hidden = F.relu(self.norm1(self.conv1(x, state)))
        if self.time is not None and time is not None:
            hidden = hidden + self.time(F.leaky_relu(time, 0.2))[:, :, None, None, None]
        hidden = F.relu(self.norm2(self.conv2(hidden, state)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


def shrink_space(channels: int, pad: Pad) -> CausalConv3d:
    """A convolution that halves rows and columns."""
    return CausalConv3d(channels, channels, (1, 3, 3), (1, 2, 2), edges=pad)


def shrink_time(channels: int, pad: Pad) -> CausalConv3d:
    """A convolution over three frames that takes 1 + 2k to 1 + k; starts as the sum of the last two."""
    conv = CausalConv3d(channels, channels, (3, 1, 1), (2, 1, 1), time_pad=pad)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[range(channels), range(channels), 1:] = 1.0
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
    return conv


class EnlargeSpace(nn.Module):
    """Twice the rows and columns: repeated and convolved, or a transposed convolution."""

    def __init__(self, channels: int, out: int, pad: Pad, how: Enlarge) -> None:
        super().__init__()
        self.how = how
        if how == "nearest":
            self.conv: nn.Module = CausalConv3d(channels, out, (1, 5, 5), edges=pad)
        else:
            self.conv = nn.ConvTranspose3d(channels, out, (1, 5, 5), (1, 2, 2), (0, 2, 2), (0, 1, 1))

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:
        """Every frame by itself."""
        if self.how == "nearest":
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
        return self.conv(x)


class EnlargeTime(nn.Module):
    """Every frame becomes two, but the first of a clip one: 1 + k to 1 + 2k; starts by repeating."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, 1)
        with torch.no_grad():
            self.conv.weight[..., 0, 0, 0] = torch.eye(channels).repeat_interleave(2, 0)
            nn.init.zeros_(self.conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:
        """The next part."""
        out = rearrange(self.conv(x), "b (c p) t h w -> b c (t p) h w", p=2)
        return out[:, :, 1:] if begins(self, state) else out


class FrameAttention(nn.Module):
    """x + linear attention of its norm, inside every frame (Shen et al., 2018, arXiv 1812.01243).

    Queries are a softmax over channels, keys over positions; the cost grows with positions, not their square.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv3d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Every frame by itself."""
        q, k, v = rearrange(self.to_qkv(self.norm(x)), "b (three c) t h w -> three b t c (h w)", three=3)
        context = k.softmax(-1) @ v.mT
        out = context.mT @ (q.softmax(-2) * x.shape[1] ** -0.5)
        return x + self.to_out(rearrange(out, "b t c (h w) -> b c t h w", h=x.shape[3]))
