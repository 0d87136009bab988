"""Discriminators: networks that tell reconstructions from originals, for adversarial training.

```
pixels [b 3 t h w] ─► patches:      convolutions of stride 2 ─────────────────────► a logit a patch
                   ─► style:        residual blocks, halved each ─► batch's spread ─► a logit a frame or clip
                   ─► transformer:  tubes ─► blocks ──────────────────────────────► a logit a tube
                        └─► features of every layer, for feature matching
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest
from smalti.nn.transformer import Block

KINDS = ("patch", "patch-3d", "style", "style-3d", "transformer", "transformer-3d")


@dataclass(frozen=True)
class Judgement:
    """Attributes:
    logits: high for originals.
    features: of the layers before.
    """

    logits: Float[Tensor, "n *places"]
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017): every logit sees a patch; over frames too when `dims` is 3.

    Args:
        width: channels of the first layer; doubled with every halving up to eight times.
        depth: halvings.
        dims: 2 judges every frame by itself, 3 clips.
    """

    def __init__(self, width: int = 64, depth: int = 3, dims: Literal[2, 3] = 2) -> None:
        super().__init__()
        self.dims = dims
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        widths = [3, *(width * min(2**i, 8) for i in range(depth + 1))]
        layers: list[nn.Module] = []
        for number, (enter, leave) in enumerate(pairwise(widths)):
            stride = 2 if number < depth else 1
            layers.append(
                nn.Sequential(
                    convolution(enter, leave, 4 if dims == 2 else 3, stride, 1),
                    nn.Identity() if number == 0 else nn.GroupNorm(math.gcd(32, leave), leave),
                    nn.LeakyReLU(0.2),
                )
            )
        self.layers = nn.ModuleList(layers)
        self.leave = convolution(widths[-1], 1, 4 if dims == 2 else 3, 1, 1)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Judgement:
        """Logits of overlapping patches; of frames that are too small for one, of the whole."""
        x = pixels * 2 - 1
        if self.dims == 2:
            x = rearrange(x, "b c t h w -> (b t) c h w")
        least = 2 ** (len(self.layers) - 1) * 8
        if min(x.shape[-2:]) < least:
            x = F.pad(x, (0, max(least - x.shape[-1], 0), 0, max(least - x.shape[-2], 0)))
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return Judgement(self.leave(x).flatten(1), tuple(features))


class _Halving(nn.Module):
    def __init__(self, enter: int, leave: int, dims: Literal[2, 3]) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.first, self.second = convolution(enter, enter, 3, 1, 1), convolution(enter, leave, 3, 1, 1)
        self.skip = convolution(enter, leave, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)
        return (_halved(inner) + self.skip(_halved(x))) / math.sqrt(2)


def _halved(x: Tensor) -> Tensor:
    """Means of two rows and columns; of clips also of two frames, the last of an odd count by itself."""
    if x.ndim == 4:
        return F.avg_pool2d(x, 2)
    return F.avg_pool3d(x, (min(x.shape[2], 2), 2, 2), ceil_mode=True)


class StyleDiscriminator(nn.Module):
    """The residual discriminator of StyleGAN2 (Karras et al., 2020), on frames or clips of any size.

    Args:
        width: channels at full size; doubled with every halving, up to `most`.
        depth: halvings.
        most: channels.
        dims: 2 judges every frame by itself, 3 clips, halved in time as well (MAGVIT: Yu et al., 2023).
    """

    def __init__(self, width: int = 32, depth: int = 4, most: int = 512, dims: Literal[2, 3] = 2) -> None:
        super().__init__()
        self.dims = dims
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        widths = [min(width * 2**i, most) for i in range(depth + 1)]
        self.enter = convolution(3, widths[0], 1)
        self.blocks = nn.ModuleList(_Halving(a, b, dims) for a, b in pairwise(widths))
        self.mix = convolution(widths[-1] + 1, widths[-1], 3, padding=1)
        self.leave = nn.Linear(widths[-1], 1)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Judgement:
        """A logit a frame, or a clip; the spread over the batch tells when all reconstructions look alike."""
        x = pixels * 2 - 1
        if self.dims == 2:
            x = rearrange(x, "b c t h w -> (b t) c h w")
        x = F.leaky_relu(self.enter(x), 0.2)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        spread = x.float().var(0, correction=0).add(1e-8).sqrt().mean()
        x = torch.cat([x, spread.to(x).expand(len(x), 1, *x.shape[2:])], 1)
        x = F.leaky_relu(self.mix(x), 0.2).flatten(2).mean(2)
        return Judgement(self.leave(x), tuple(features))


class TransformerDiscriminator(nn.Module):
    """A transformer over tubes of a clip, as LARP (Wang et al., 2025) trains against.

    Args:
        patch: frames, rows and columns of a tube; what does not fill one is left out.
        dim, depth, heads: of the blocks.
    """

    def __init__(
        self, patch: tuple[int, int, int] = (1, 8, 8), dim: int = 192, depth: int = 4, heads: int = 3
    ) -> None:
        super().__init__()
        self.enter = nn.Conv3d(3, dim, patch, patch)
        self.place = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.leave = nn.LayerNorm(dim), nn.Linear(dim, 1)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Judgement:
        """A logit a tube; the last frame stands for those that a short clip lacks."""
        missing = self.enter.kernel_size[0] - pixels.shape[2]
        if missing > 0:
            pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        maps = self.enter(pixels * 2 - 1)
        x = rearrange(maps + self.place(maps), "b c t h w -> b (t h w) c")
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return Judgement(self.leave(self.norm(x)).squeeze(-1), tuple(features))


def discriminator(kind: str, width: int, depth: int) -> nn.Module:
    """A discriminator by name: "patch", "patch-3d", "style", "style-3d", "transformer" or "transformer-3d".

    Raises:
        ConfigError: another name.
    """
    heads = max(width // 64, 1)
    match kind:
        case "patch":
            return PatchDiscriminator(width, depth)
        case "patch-3d":
            return PatchDiscriminator(width, depth, dims=3)
        case "style":
            return StyleDiscriminator(width, depth)
        case "style-3d":
            return StyleDiscriminator(width, depth, dims=3)
        case "transformer":
            return TransformerDiscriminator(dim=width, depth=depth, heads=heads)
        case "transformer-3d":
            return TransformerDiscriminator((4, 8, 8), width, depth, heads)
    raise ConfigError(f"no discriminator {kind!r}: {nearest(kind, KINDS)}")
