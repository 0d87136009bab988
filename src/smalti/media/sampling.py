"""Which frames of a clip to decode: k spread evenly, a steady rate, a range of seconds."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from smalti.errors import ConfigError
from smalti.media.info import Number


@dataclass(frozen=True)
class Sampling:
    """What part of a clip is wanted.

    Attributes:
        frames: this many, at the middles of equal parts; all when the clip has no more.
        fps: at every 1/fps seconds from the first, the frame that is on display then.
        start, end: seconds on the file's clock; frames with start ≤ time < end.

    Raises:
        ConfigError: frames and fps together, or a number that means nothing.
    """

    frames: int | None = None
    fps: Number | None = None
    start: Number | None = None
    end: Number | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise ConfigError("give frames= (how many) or fps= (how often), not both")
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames={self.frames}: at least one frame must be wanted")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ConfigError(f"fps={self.fps}: must be positive")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ConfigError(f"start={self.start} must lie before end={self.end}")

    @property
    def everything(self) -> bool:
        """Whether every frame is wanted once."""
        return self == Sampling()

    def choose(self, times: Sequence[Number]) -> tuple[list[int], list[float]]:
        """Places of the chosen frames (non-decreasing, repeated where fps asks for it) and their times."""
        first = 0 if self.start is None else bisect_left(times, self.start)
        last = len(times) if self.end is None else bisect_left(times, self.end)
        if first >= last:
            return [], []
        if self.fps is not None:
            return self._steady(times, first, last)
        places = list(range(first, last))
        if self.frames is not None and self.frames < len(places):
            places = [first + (2 * i + 1) * len(places) // (2 * self.frames) for i in range(self.frames)]
        return places, [times[i] for i in places]

    def _steady(self, times: Sequence[Number], first: int, last: int) -> tuple[list[int], list[float]]:
        rate = self.fps or 1.0
        begin = times[first]
        mean = (times[last - 1] - begin) / (last - first - 1) if last - first > 1 else 1 / rate
        stop = times[last] if last < len(times) else times[-1] + mean
        if self.end is not None:
            stop = min(stop, self.end)
        count = max(1, math.ceil((stop - begin) * rate - 1e-6))
        chosen = [begin + i / rate for i in range(count)]
        places = [min(max(bisect_right(times, t + 1e-6) - 1, first), last - 1) for t in chosen]
        return places, chosen
