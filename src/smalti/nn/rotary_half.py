"""Rotary positions in the rotate-half form, on all channels of a head or the first (Su et al., 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotate_half(
    x: Float[Tensor, "b h n c"], share: float = 1.0, base: float = 10000.0
) -> Float[Tensor, "b h n c"]:
    """Turn pairs of channels (i, i + r/2) of the token at place p by p · base^(−2i/r).

    Args:
        x: queries or keys.
        share: of the channels of every head that turn; r = int(c · share), the others stay.
        base: of the wavelengths.
    """
    turned = int(x.shape[-1] * share)
    frequency = base ** (-torch.arange(0, turned, 2, device=x.device, dtype=torch.float32) / turned)
    angle = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = x.split([turned // 2, turned // 2, x.shape[-1] - turned], -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
