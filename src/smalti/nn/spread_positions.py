"""Fixed sine and cosine positions whose longest wave is exactly the base, for any number of axes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError


def spread_positions(
    places: Int[Tensor, "n axes"], dim: int, base: float = 10000.0
) -> Float[Tensor, "n dim"]:
    """For every axis all sines, then all cosines, of place · base^(−k/(count−1)), k = 0 … count−1.

    Args:
        places: along every axis.
        dim: channels, shared equally by the axes.
        base: of the wavelengths.

    Raises:
        ConfigError: channels that give an axis fewer than two waves, or cannot be shared.
    """
    axes = places.shape[1]
    count, rest = divmod(dim, 2 * axes)
    if rest or count < 2:
        raise ConfigError(f"{dim} channels do not hold sines and cosines of {axes} axes")
    waves = base ** -(torch.arange(count, dtype=torch.float64, device=places.device) / (count - 1))
    angle = places.double()[..., None] * waves
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(1).float()
