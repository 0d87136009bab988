"""Times of frames ⇄ integers in units of a time base, so that they come back exactly.

```
seconds ──► ticks = seconds / time_base ──► first tick, smallest step │ (step - smallest step) packed
```
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from jaxtyping import Float64

from smalti.codec.bits import pack, packed_bytes, unpack, width
from smalti.errors import ConfigError, FormatError

LARGEST_TICK = 1 << 53  # ticks and numerators stay exact in float64
COMMON_BASES = (Fraction(1, 90_000), Fraction(1, 1_000_000), Fraction(1, 1_000_000_000))


def write_times(
    times: Float64[np.ndarray, "frames"], time_base: Fraction | None
) -> tuple[Fraction | None, dict[str, Any], bytes]:
    """The time base that holds every time exactly, what the header says of them, and the packed steps.

    Times that no time base holds are stored as float64, and the time base stays as given.

    Raises:
        ConfigError: a time that is not finite.
    """
    if not np.isfinite(times).all():
        frame = int((~np.isfinite(times)).argmax())
        raise ConfigError(f"time {times[frame]} of frame {frame} is not a number of seconds")
    for base in _bases(times, time_base):
        ticks = np.rint(times / base.numerator * base.denominator)
        if np.abs(ticks).max() * base.numerator >= LARGEST_TICK:
            continue
        if (_seconds(ticks, base) == times).all():
            steps = np.diff(ticks.astype(np.int64))
            smallest = int(steps.min()) if len(steps) else 0
            bits = width(int(steps.max()) - smallest + 1) if len(steps) else 0
            layout = {"kind": "ticks", "first": int(ticks[0]), "step": smallest, "bits": bits}
            return base, layout, pack(steps - smallest, bits)
    return time_base, {"kind": "float64"}, times.astype("<f8").tobytes()


def read_times(
    layout: dict[str, Any], data: bytes, frames: int, time_base: Fraction | None
) -> Float64[np.ndarray, "frames"]:
    """Seconds of every frame.

    Raises:
        FormatError: the layout and its bytes do not fit the number of frames.
    """
    if layout["kind"] == "float64":
        if len(data) != 8 * frames:
            raise FormatError(f"times of {frames} frames take {8 * frames} bytes, found {len(data)}")
        return np.frombuffer(data, "<f8").astype(np.float64)
    if time_base is None:
        raise FormatError("times are counted in ticks, but the file names no time base")
    steps = unpack(data, frames - 1, layout["bits"]) + layout["step"]
    ticks = np.concatenate([[layout["first"]], layout["first"] + np.cumsum(steps)])
    return _seconds(ticks.astype(np.float64), time_base)


def times_bytes(layout: dict[str, Any], frames: int) -> int:
    """Bytes that the times of so many frames take."""
    return 8 * frames if layout["kind"] == "float64" else packed_bytes(frames - 1, layout["bits"])


def _seconds(ticks: Float64[np.ndarray, "frames"], base: Fraction) -> Float64[np.ndarray, "frames"]:
    return ticks * base.numerator / base.denominator


def _bases(times: Float64[np.ndarray, "frames"], given: Fraction | None) -> Iterator[Fraction]:
    if given is not None:
        yield given
    shared = lcm(*(Fraction(float(t)).limit_denominator(1_000_000).denominator for t in times[:64]))
    if shared < LARGEST_TICK:
        yield Fraction(1, shared)
    yield from COMMON_BASES
