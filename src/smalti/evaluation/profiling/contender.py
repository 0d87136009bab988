"""What takes part in a profile, and the sources that tokens are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

PATCH = 16  # pixels a side of what counts as one token
LEAST_OF_FRAME = 16  # tokens; a clip of fewer tokens has fewer frames

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """Attributes:
    name: as tables print it.
    parameters: numbers to be learned.
    prepare: makes a call that is ready to run on so many tokens.
    note: what is in it, and what is not.
    energy: joules of a forward on so many tokens, where they can be counted.
    """

    name: str
    parameters: int
    prepare: Callable[[int], Call]
    note: str = ""
    energy: Callable[[int], float] | None = None


def grid_of(tokens: int) -> tuple[int, int]:
    """Rows and columns of so many tokens, as square as can be."""
    rows = next(side for side in range(isqrt(tokens), 0, -1) if tokens % side == 0)
    return rows, tokens // rows


def clip_shape(tokens: int, frames: int) -> tuple[int, int, int, int, int]:
    """[1 3 t h w] of so many patches of 16 × 16 pixels; short counts get fewer frames than asked for."""
    most = max(min(frames, tokens // LEAST_OF_FRAME), 1)
    time = next(count for count in range(most, 0, -1) if tokens % count == 0)
    rows, columns = grid_of(tokens // time)
    return 1, 3, time, rows * PATCH, columns * PATCH


def pixels(tokens: int, frames: int) -> Float[Tensor, "1 3 t h w"]:
    """A random clip of so many patches, the same at every call."""
    return torch.rand(clip_shape(tokens, frames), generator=torch.Generator().manual_seed(0))


def values(tokens: int, width: int) -> Float[Tensor, "1 n d"]:
    """Random tokens, the same at every call."""
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
