"""What backbones that look at one picture at a time share: frames of clips, and positions of another size.

```
pixels [b 3 t h w] ── check ──► frames [b·t 3 h w] ──► backbone ──► Features ── over_time ──► of clips
```
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.backbones.base import Features
from smalti.errors import MediaError


def check_source(pixels: Tensor) -> None:
    """Refuse what is no clip of RGB frames.

    Raises:
        MediaError: another shape, no pixel, or NaN.
    """
    if pixels.ndim != 5 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise MediaError(
            f"pixels must be floats of shape [batch, 3, frames, height, width], "
            f"not {pixels.dtype} of {tuple(pixels.shape)}"
        )
    if pixels.numel() == 0:
        raise MediaError(f"pixels are empty: {tuple(pixels.shape)}")
    if pixels.is_meta or torch.compiler.is_compiling():
        return
    if pixels.isnan().any():
        where = pixels.isnan().nonzero()[0].tolist()
        raise MediaError(f"a pixel is NaN at [b, c, t, h, w] = {where}: decode the source again")


def frames_of(pixels: Float[Tensor, "b c t h w"]) -> Float[Tensor, "bt c h w"]:
    """Frames of all clips as one batch.

    Raises:
        MediaError: pixels that mean nothing.
    """
    check_source(pixels)
    return rearrange(pixels, "b c t h w -> (b t) c h w")


def over_time(features: Features, frames: int) -> Features:
    """Features of frames → of clips: all prefixes in front, tokens in order of time, pooled means."""
    if frames == 1 or features.grid is None:
        return features
    prefix, tokens = features.tokens.split([features.prefix, features.tokens.shape[1] - features.prefix], 1)
    parts = [rearrange(part, "(b t) n d -> b (t n) d", t=frames) for part in (prefix, tokens)]
    return Features(
        torch.cat(parts, 1),
        rearrange(features.pooled, "(b t) d -> b t d", t=frames).mean(1),
        tuple(rearrange(m, "(b t) c 1 h w -> b c t h w", t=frames) for m in features.pyramid),
        features.prefix * frames,
        (frames, *features.grid[1:]),
    )


def resample_positions(
    positions: Float[Tensor, "1 n d"], source: tuple[int, int], target: tuple[int, int]
) -> Float[Tensor, "1 m d"]:
    """A table of learned positions for a grid of another size, by bicubic interpolation."""
    if source == target:
        return positions
    maps = rearrange(positions.float(), "1 (h w) d -> 1 d h w", h=source[0])
    maps = F.interpolate(maps, target, mode="bicubic", align_corners=False)
    return rearrange(maps, "1 d h w -> 1 (h w) d").to(positions.dtype)
