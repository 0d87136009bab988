"""The networks of the context model: whole numbers in float32, whose sums are exact on every machine.

```
maps [h w inputs] ─ 3×3 ─► sums ──► + pass ──► middle ──► leave ──► centre, scale of each channel's density
levels of the frame before, half steps away ──► follow ──► added to both
```
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int64

from smalti.errors import ConfigError

ENTER_SHIFT, MIDDLE_SHIFT, LEAVE_SHIFT = 9, 8, 7  # weights of the three layers are in 2^-shift
FOLLOW_SHIFT, FARTHEST = 6, 127  # of the path from the frame before, channel by channel; in half steps
SIGNED = 12  # channels whose sign the network reads; of the others it reads the magnitude alone
INPUT_LIMIT, HIDDEN_LIMIT = 31, 63
FRACTION = 8  # positions of the distribution's table are eighths of half a step
STRIP = 1 << 14  # positions that are convolved at once


@dataclass(frozen=True)
class StageNetwork:
    """Integer weights for one stage and one kind of frame, held as float32.

    Attributes:
        here, before: [inputs, 9 · hidden], from the frame itself and the frame before it.
        passes: [passes, hidden], added to the first layer's sums in each pass.
        middle, middle_bias: [hidden, hidden], [hidden].
        leave, leave_bias: [hidden, 2 · open], [2 · open]; centres, then scales.
        follow: [2, open]; how far each channel's centre moves to the frame before, and its scale grows with
            the distance, in 2^-6.
    """

    here: np.ndarray
    before: np.ndarray
    passes: np.ndarray
    middle: np.ndarray
    middle_bias: np.ndarray
    leave: np.ndarray
    leave_bias: np.ndarray
    follow: np.ndarray

    def __post_init__(self) -> None:
        first = np.abs(np.concatenate([self.here, self.before])).reshape(-1, 9, self.hidden)
        sums = (
            first.sum((0, 1)).max() * INPUT_LIMIT + np.abs(self.passes).max(),
            np.abs(self.middle).sum(0).max() * HIDDEN_LIMIT + np.abs(self.middle_bias).max(),
            np.abs(self.leave).sum(0).max() * HIDDEN_LIMIT + np.abs(self.leave_bias).max(),
        )
        if max(sums) >= 1 << 24:
            raise ConfigError("weights of the context model are too large for exact sums")

    @property
    def hidden(self) -> int:
        """Width of the network."""
        return len(self.middle)

    def predict(
        self, sums: Float32[np.ndarray, "n hidden"], number: int, channels: range
    ) -> tuple[Int64[np.ndarray, "n c"], Int64[np.ndarray, "n c"]]:
        """Centres (positions) and scales (rows of the table) of some channels in a pass."""
        hidden = np.clip(_rounded(sums + self.passes[number], ENTER_SHIFT), 0, HIDDEN_LIMIT)
        hidden = _rounded(hidden @ self.middle + self.middle_bias, MIDDLE_SHIFT)
        hidden = np.clip(hidden, 0, HIDDEN_LIMIT)
        count = self.leave.shape[1] // 2
        columns = np.r_[channels.start : channels.stop, channels.start + count : channels.stop + count]
        out = _rounded(hidden @ self.leave[:, columns] + self.leave_bias[columns], LEAVE_SHIFT)
        centre, scale = np.split(out.astype(np.int64), 2, axis=1)
        return centre, scale

    def followed(
        self, distance: Int[np.ndarray, "n c"], companded: Int64[np.ndarray, "n c"], channels: range
    ) -> tuple[Int64[np.ndarray, "n c"], Int64[np.ndarray, "n c"]]:
        """What the same channel of the frame before, `distance` half steps away, adds to both."""
        move, grow = self.follow[:, channels.start : channels.stop].astype(np.int64)
        half = 1 << (FOLLOW_SHIFT - 1)
        moved = (move * distance * FRACTION + half) >> FOLLOW_SHIFT
        return moved, (grow * companded + half) >> FOLLOW_SHIFT


def _rounded(sums: Float32[np.ndarray, "n c"], shift: int) -> Float32[np.ndarray, "n c"]:
    """Sums in 2^-shift to whole numbers: exact, since they are whole and under 2^24."""
    return np.floor((sums + np.float32(2 ** (shift - 1))) * np.float32(2**-shift))


def input_rows(channels: range, count: int) -> list[int]:
    """Rows of the inputs, magnitudes then signed values, that hold some of `count` open channels."""
    return [*channels, *(count + c for c in channels if c < SIGNED)]


def convolved(maps: Float32[np.ndarray, "h w c"], weights: np.ndarray) -> Float32[np.ndarray, "h w hidden"]:
    """3×3 convolution with zeros outside: nine shifted maps, then one product; strip by strip."""
    height, width, count = maps.shape
    padded = np.pad(maps, ((1, 1), (1, 1), (0, 0)))
    matrix = weights.reshape(count, 9, -1).swapaxes(0, 1).reshape(9 * count, -1)
    sums = np.empty((height, width, matrix.shape[1]), np.float32)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = padded[top : top + rows + 2]
        shifted = [strip[y : len(strip) - 2 + y, x : x + width] for y in range(3) for x in range(3)]
        sums[top : top + rows] = np.concatenate(shifted, -1) @ matrix
    return sums
