"""The networks of MAGVIT's 3D-VQ: residual blocks that look both ways, average pooling, nearest upsampling.

```
[b 3 t h w] ─► conv ─► level ─► pool ─► level ─► … ─► blocks ─► norm ─► 1³ ─► [b d t' h' w']
[b 3 t h w] ◄─ conv ◄─ norm ◄─ level ◄─ conv ◄─ nearest ◄─ … ◄─ blocks ◄─ conv ◄─┘
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.magvit_conv import ClipConv3d, PooledGroupNorm, ResidualBlock3d


@dataclass(frozen=True)
class MagvitVQSizes:
    """Attributes:
    channels: of the finest level.
    multipliers: of the channels, from the finest level to the coarsest; each step halves rows and columns.
    time_down: which steps halve the frames too; none makes a network of single frames, with flat kernels.
    blocks: residual blocks of a level.
    groups: of all norms.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    time_down: tuple[bool, ...] = (True, True, False)
    blocks: int = 2
    groups: int = 32

    def __post_init__(self) -> None:
        if len(self.time_down) != len(self.multipliers) - 1:
            raise ConfigError(
                f"{len(self.multipliers)} levels have {len(self.multipliers) - 1} steps between them, but "
                f"time_down tells {len(self.time_down)}"
            )
        if any(self.channels * factor % self.groups for factor in self.multipliers):
            raise ConfigError(f"{self.groups} groups must divide {self.channels} times {self.multipliers}")

    @property
    def kernel(self) -> tuple[int, int, int]:
        """Of most convolutions: flat where no frames are joined."""
        return (3 if any(self.time_down) else 1, 3, 3)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.channels * factor for factor in self.multipliers)

    @property
    def compression(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a latent."""
        side = 2 ** len(self.time_down)
        return (2 ** sum(self.time_down), side, side)

    def level(self, channels: int, out: int) -> nn.Sequential:
        """A level's blocks; the first changes the channels."""
        pairs = [(channels, out)] + [(out, out)] * (self.blocks - 1)
        made: dict[str, Any] = {"groups": self.groups, "pooled": "clip" if self.kernel[0] > 1 else "frame"}
        return nn.Sequential(*(ResidualBlock3d(a, b, ClipConv3d, self.kernel, **made) for a, b in pairs))

    def norm(self, channels: int) -> PooledGroupNorm:
        """Over the clip where frames are joined."""
        return PooledGroupNorm(channels, self.groups, "clip" if self.kernel[0] > 1 else "frame")


class MagvitVQEncoder(nn.Module):
    """Pixels in [0, 1] to latents."""

    def __init__(self, sizes: MagvitVQSizes, latent: int) -> None:
        super().__init__()
        widths = sizes.widths
        self.enter = ClipConv3d(3, sizes.channels, sizes.kernel, bias=False)
        self.levels = nn.ModuleList(
            sizes.level(a, b) for a, b in zip((sizes.channels, *widths[:-1]), widths, strict=True)
        )
        self.steps = [(1 + time, 2, 2) for time in sizes.time_down]
        self.middle = sizes.level(widths[-1], widths[-1])
        self.norm = sizes.norm(widths[-1])
        self.leave = ClipConv3d(widths[-1], latent, (1, 1, 1))

    def forward(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Latents of a clip whose size is a multiple of the compression."""
        x = self.enter(x)
        for number, level in enumerate(self.levels):
            x = level(x)
            if number < len(self.steps):
                x = F.avg_pool3d(x, self.steps[number])
        return self.leave(F.silu(self.norm(self.middle(x))))


class MagvitVQDecoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, sizes: MagvitVQSizes, latent: int) -> None:
        super().__init__()
        widths = sizes.widths[::-1]
        self.enter = ClipConv3d(latent, widths[0], sizes.kernel)
        self.middle = sizes.level(widths[0], widths[0])
        self.levels = nn.ModuleList(
            sizes.level(a, b) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.steps = [(1 + time, 2, 2) for time in sizes.time_down[::-1]]
        self.up = nn.ModuleList(ClipConv3d(width, width, sizes.kernel) for width in widths[:-1])
        self.norm = sizes.norm(widths[-1])
        self.leave = ClipConv3d(widths[-1], 3, sizes.kernel)

    def forward(self, x: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """Pixels, not clamped."""
        x = self.middle(self.enter(x))
        for number, level in enumerate(self.levels):
            x = level(x)
            if number < len(self.steps):
                for axis, factor in enumerate(self.steps[number], 2):
                    x = x.repeat_interleave(factor, axis) if factor > 1 else x
                x = self.up[number](x)
        return self.leave(F.silu(self.norm(x)))
