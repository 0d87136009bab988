"""Fixed positions from sines and cosines, on a line, in a frame and in a clip.

```
place p ──► sin(p · ω_k), then cos(p · ω_k), ω_k = base^(−2k/d) ──► [n d]
frame: by column in the first half of the channels, by row in the second        (He et al., 2021)
clip: the frame's plus the time's
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError


def line_positions(places: Int[Tensor, "n"], dim: int, base: float = 10000.0) -> Float[Tensor, "n d"]:
    """All sines, then all cosines, from the shortest wave to the longest.

    Raises:
        ConfigError: an odd number of channels.
    """
    if dim % 2:
        raise ConfigError(f"sines and cosines need an even number of channels, not {dim}")
    waves = base ** -(torch.arange(dim // 2, dtype=torch.float64, device=places.device) / (dim / 2))
    angle = places.double()[:, None] * waves
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def frame_positions(rows: int, columns: int, dim: int) -> Float[Tensor, "n d"]:
    """Of every place of a frame, row by row.

    Raises:
        ConfigError: channels that are no multiple of four.
    """
    places = torch.arange(rows * columns)
    by_axis = (line_positions(axis, dim // 2) for axis in (places % columns, places // columns))
    return torch.cat(list(by_axis), 1)


def clip_positions(frames: int, rows: int, columns: int, dim: int) -> Float[Tensor, "n d"]:
    """Of every place of a clip, frame by frame.

    Raises:
        ConfigError: channels that are no multiple of four.
    """
    time = line_positions(torch.arange(frames), dim)
    return (time[:, None] + frame_positions(rows, columns, dim)).flatten(0, 1)
