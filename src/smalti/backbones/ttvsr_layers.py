"""Convolutions of TTVSR: a trunk of residual blocks, and the way back to pixels, four times as fine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.pyramid_flow import SPyNet

SCALE = 4
SLOPE = 0.1
PAIRS = 8  # of frames whose flow is computed at once


class PlainResidual(nn.Module):
    """x + conv(relu(conv(x))), without norms; starts near the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
            conv.weight.data.mul_(0.1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map and its correction."""
        return x + self.conv2(F.relu(self.conv1(x)))


def residual_trunk(source: int, channels: int, blocks: int) -> nn.Sequential:
    """A convolution to `channels`, then residual blocks."""
    return nn.Sequential(
        nn.Conv2d(source, channels, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Sequential(*(PlainResidual(channels) for _ in range(blocks))),
    )


class Reconstruction(nn.Module):
    """A map and the frame it belongs to → the frame at four times the size.

    ```
    [b c h w] ─► conv, shuffle ×2 ─► conv, shuffle ×2 ─► conv ─► conv ─┬─► [b 3 4h 4w]
    frame [b 3 h w] ─► bilinear ×4 ────────────────────────────────────┘
    ```
    Args:
        channels: of the map.
        fine: channels of the fine map.
    """

    def __init__(self, channels: int, fine: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 4 * fine, 3, padding=1)
        self.detail = nn.Conv2d(fine, fine, 3, padding=1)
        self.last = nn.Conv2d(fine, 3, 3, padding=1)

    def forward(self, maps: Float[Tensor, "b c h w"], frame: Float[Tensor, "b 3 h w"]) -> Tensor:
        """The fine frame, its values not yet kept within [0, 1]."""
        for enlarge in (self.first, self.second):
            maps = F.leaky_relu(F.pixel_shuffle(enlarge(maps), 2), SLOPE)
        fine = self.last(F.leaky_relu(self.detail(maps), SLOPE))
        return fine + F.interpolate(frame, scale_factor=SCALE, mode="bilinear", align_corners=False)


def padded(maps: Float[Tensor, "b _c _t h w"], stride: int) -> Tensor:
    """Continued by its last row and column until the stride divides both sides."""
    right, bottom = (-side % stride for side in (maps.shape[-1], maps.shape[-2]))
    if not right and not bottom:
        return maps
    return F.pad(maps.flatten(1, 2), (0, right, 0, bottom), mode="replicate").unflatten(1, maps.shape[1:3])


def is_mirrored(clip: Float[Tensor, "b 3 t h w"]) -> bool:
    """Whether the second half of a clip is its first half backwards."""
    frames = clip.shape[2]
    if frames % 2 or clip.is_meta or torch.compiler.is_compiling():
        return False
    return torch.equal(clip[:, :, : frames // 2], clip[:, :, frames // 2 :].flip(2))


def flow_in_parts(
    network: SPyNet, reference: Float[Tensor, "n 3 h w"], support: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n 2 h w"]:
    """Flow of many pairs of frames, a few at a time."""
    pairs = zip(reference.split(PAIRS), support.split(PAIRS), strict=True)
    return torch.cat([network(*pair) for pair in pairs])
