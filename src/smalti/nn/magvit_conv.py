"""Blocks of the MAGVIT tokenizers: causal residual blocks, norms that stream, upsampling by channels.

```
x [b c t h w] ─┬─► norm ─► swish ─► conv 3³ ─► norm ─► swish ─► conv 3³ ─┬─► [b d t h w]
               └────────────── 1³ where channels change ─────────────────┘
```
Every block takes a `State` (see `causal_conv`), so a clip may come in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.causal_conv import CausalConv3d, State, begins

Pooled = Literal["frame", "clip"]
MakeConv = Callable[..., nn.Module]
EPSILON = 1e-6


class ClipConv3d(nn.Conv3d):
    """A convolution that looks both ways in time, with zeros beyond the clip; takes no state."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int], bias: bool = True) -> None:
        frames, rows, columns = (side // 2 for side in kernel)
        super().__init__(channels, out, kernel, padding=(frames, rows, columns), bias=bias)

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The whole clip; the state is not used."""
        return super().forward(x)


class PooledGroupNorm(nn.GroupNorm):
    """Group normalisation with the statistics of every frame, or of the whole clip.

    Args:
        channels: that come in.
        groups: that divide them.
        pooled: over a frame, which is causal; over the clip, as official MAGVIT weights were trained.
        affine: whether scale and shift are learned.
    """

    def __init__(self, channels: int, groups: int, pooled: Pooled = "frame", affine: bool = True) -> None:
        super().__init__(groups, channels, EPSILON, affine)
        self.pooled = pooled

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalised."""
        if self.pooled == "clip":
            return super().forward(x)
        frames = super().forward(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))


class ResidualBlock3d(nn.Module):
    """Two normalised convolutions beside a shortcut.

    Args:
        channels, out: that come in, and go out.
        conv: makes a convolution of channels, out, kernel and bias.
        kernel: of both convolutions.
        groups, pooled: of both norms.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        conv: MakeConv,
        kernel: tuple[int, int, int],
        groups: int,
        pooled: Pooled,
    ) -> None:
        super().__init__()
        self.norm1 = PooledGroupNorm(channels, groups, pooled)
        self.conv1 = conv(channels, out, kernel, bias=False)
        self.norm2 = PooledGroupNorm(out, groups, pooled)
        self.conv2 = conv(out, out, kernel, bias=False)
        self.shortcut = conv(channels, out, (1, 1, 1), bias=False) if channels != out else None

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:
        """The next part."""
        hidden = self.conv1(F.silu(self.norm1(x)), state)
        hidden = self.conv2(F.silu(self.norm2(hidden)), state)
        return hidden + (x if self.shortcut is None else self.shortcut(x, state))


class DepthToSpaceTime(nn.Module):
    """A convolution to more channels, which become frames, rows and columns: 1 + k frames give 1 + 2k.

    ```
    x [b c t h w] ─► conv 3³ ─► [b (p q r c) t h w] ─► [b c (t p) (h q) (w r)] ─► without the second frame
    ```
    Args:
        channels: that come in and go out.
        factors: frames, rows and columns that one becomes.
        kernel: of the convolution.
    """

    def __init__(self, channels: int, factors: tuple[int, int, int], kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.factors = factors
        p, q, r = factors
        self.conv = CausalConv3d(channels, channels * p * q * r, kernel)

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:
        """The next part; the first frame of a clip becomes one frame."""
        p, q, r = self.factors
        out = rearrange(self.conv(x, state), "b (p q r c) t h w -> b c (t p) (h q) (w r)", p=p, q=q, r=r)
        if p > 1 and begins(self, state):
            out = torch.cat([out[:, :, :1], out[:, :, p:]], 2)
        return out


class AdaptiveGroupNorm(nn.Module):
    """A norm whose scale and shift come from deviation and mean of the latents, over space or over all.

    ```
    latents [b z t' h' w'] ─► deviation ─► linear ─► scale ─┐
                           └► mean ──────► linear ─► shift ─┤
    x [b c t h w] ─► norm without affine ───────────────── × + ─► [b c t h w]
    ```
    Args:
        latent: channels of the latents.
        channels: of the map.
        groups, pooled: of the norm; pooled over the frame, every latent's statistics serve the frames that it
            stands for.
    """

    def __init__(self, latent: int, channels: int, groups: int, pooled: Pooled) -> None:
        super().__init__()
        self.norm = PooledGroupNorm(channels, groups, pooled, affine=False)
        self.scale = nn.Linear(latent, channels)
        self.shift = nn.Linear(latent, channels)

    def forward(
        self, x: Float[Tensor, "b c t h w"], latents: Float[Tensor, "b z s i j"], state: State | None = None
    ) -> Float[Tensor, "b c t h w"]:
        """Normalised by the frame or the clip."""
        axes = (2, 3, 4) if self.norm.pooled == "clip" else (3, 4)
        mean = latents.mean(axes, keepdim=True)
        count = latents[0, 0].numel() // (1 if self.norm.pooled == "clip" else latents.shape[2])
        variance = (latents - mean).square().sum(axes, keepdim=True) / max(count - 1, 1)
        first = begins(self, state)
        scale, shift = (
            self._over_frames(layer(part.flatten(2).mT).mT, x.shape[2], first)
            for layer, part in ((self.scale, (variance + EPSILON).sqrt()), (self.shift, mean))
        )
        return self.norm(x) * scale + shift

    def _over_frames(self, style: Tensor, frames: int, first: bool) -> Tensor:
        """Styles [b c s] for every frame of this part; the first of a clip has a latent of its own."""
        count = style.shape[2]
        if count > 1:
            head = int(first)
            style = style.repeat_interleave((frames - head) // (count - head), 2)[:, :, -frames:]
        return style[..., None, None]
