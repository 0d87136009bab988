"""`Frame` and `FrameSource`: what the two readers (Pillow and FFmpeg) have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from smalti.errors import MediaError
from smalti.media.info import Info, Number

Colour = tuple[Number, Number, Number]
WHITE: Colour = (1.0, 1.0, 1.0)


class Frame(NamedTuple):
    """One upright RGB frame.

    Attributes:
        index: its place in the file, from 0.
        seconds: when it is shown.
        pixels: `[3, h, w]`, uint8 or, from sources of more than eight bits, uint16 (white is 65535).
    """

    index: int
    seconds: float
    pixels: np.ndarray


@runtime_checkable
class FrameSource(Protocol):
    """A picture or clip that can be decoded, whole or in part.

    Attributes:
        info: what its header says.
        fault: why decoding stopped early, once it did.
        frames_corrupt: frames that were asked for and left out, because they do not decode.
    """

    info: Info
    fault: MediaError | None
    frames_corrupt: int

    def times(self) -> list[float]:
        """Seconds of every frame, in order, without decoding."""
        ...

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[Frame]:
        """The frames at these increasing places; all when none are named. Stops at a fault."""
        ...


def over(pixels: np.ndarray, background: Colour) -> np.ndarray:
    """RGBA `[4, h, w]` laid over a colour: RGB of the same type."""
    white = np.iinfo(pixels.dtype).max
    colour, alpha = pixels[:3], pixels[3]
    if (alpha == white).all():
        return colour
    share = alpha.astype(np.float32) / white
    ground = np.asarray(background, np.float32)[:, None, None] * white
    return np.rint(colour * share + ground * (1 - share)).astype(pixels.dtype)


def steady_rate(times: Sequence[Number], tick: Number | None, nominal: Number | None = None) -> Number | None:
    """Frames a second, if the frames lie evenly within a tick of the clock; None if they do not.

    The header's nominal rate is preferred where the times agree with it: a coarse clock cannot tell 30 from
    29.97.
    """
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    tolerance = 1.01 * (tick or 0.0) + 1e-6 * max(1.0, abs(times[-1]))
    mean = (len(times) - 1) / (times[-1] - times[0])
    for rate in (nominal, mean):
        if rate and all(abs(time - times[0] - i / rate) <= tolerance for i, time in enumerate(times)):
            return rate
    return None
