"""A decoded video frame → upright RGB of the size wanted.

```
frame ── swscale: colours and size in one pass ── tone map ── alpha over background ── display matrix ──► RGB
```
The frame's own tags choose the colour matrix and range. Sixteen bits are kept where the video has more than
eight; high dynamic range (PQ, HLG) is tone-mapped, see `hdr`. Turns by anything but quarters are left out.
"""

from __future__ import annotations

import struct

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from smalti.media.frames import Colour, over
from smalti.media.hdr import HLG, PQ, to_standard_range

FULL_RANGE = 2  # FFmpeg's number for it


class Conversion:
    """Converts the frames of one clip, whose first frame tells the format.

    Attributes:
        height, width: of an upright frame before it is resized.
        depth: bits a channel.
        alpha: whether there is transparency.
    """

    def __init__(self, first: av.VideoFrame, size: tuple[int, int] | None, background: Colour) -> None:
        self._matrix = _display_matrix(first)
        self._sideways = self._matrix[0] == 0
        shape = (first.height, first.width)
        self.height, self.width = shape[::-1] if self._sideways else shape
        parts = first.format.components
        self.alpha = any(part.is_alpha for part in parts) or first.format.has_palette
        self.depth = max(part.bits for part in parts)
        self._transfer = first.color_trc if first.color_trc in (PQ, HLG) else None
        deep = self.depth > 8 or self._transfer is not None
        self._format = f"gbr{'a' if self.alpha else ''}p{'16le' if deep else ''}"
        wanted = size or (self.height, self.width)
        self._stored = wanted[::-1] if self._sideways else wanted
        self._background = background
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB `[3, h, w]`, uint8 or uint16."""
        height, width = self._stored
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=self._format,
            interpolation=_scaler(frame, height, width),
            threads=1,
        )
        pixels = _planes(converted)
        if self._transfer is not None:
            pixels[:3] = to_standard_range(pixels[:3], self._transfer)
        if self.alpha:
            pixels = over(pixels, self._background)
        return _upright(pixels, self._matrix)


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether black is 0 and white the highest value, as in pictures, and not 16 and 235 of 255."""
    kind = frame.format
    return frame.color_range == FULL_RANGE or kind.is_rgb or kind.name.startswith("yuvj")


def _scaler(frame: av.VideoFrame, height: int, width: int) -> str:
    """Nearest where the size stays (colours are then converted fastest), area where it shrinks."""
    if (height, width) == (frame.height, frame.width):
        return "POINT"
    return "AREA" if height < frame.height or width < frame.width else "BILINEAR"


def _planes(frame: av.VideoFrame) -> np.ndarray:
    """The planes of a planar RGB frame as `[c, h, w]`, in the order R, G, B, alpha."""
    kind = np.dtype("<u2") if frame.format.name.endswith("16le") else np.dtype("u1")
    pixels = np.empty((len(frame.planes), frame.height, frame.width), kind)
    for plane, channel in zip(frame.planes, (1, 2, 0, 3), strict=False):
        rows = np.frombuffer(plane, kind).reshape(frame.height, plane.line_size // kind.itemsize)
        pixels[channel] = rows[:, : frame.width]
    return pixels


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Signs (a, b, c, d) of x' = a·x + c·y, y' = b·x + d·y; no turn unless by quarter turns and flips."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
    largest = max(abs(value) for value in (a, b, c, d)) or 1
    signs = tuple(round(value / largest) for value in (a, b, c, d))
    quarter = signs[0] == signs[3] == 0 and signs[1] and signs[2]
    upright = signs[1] == signs[2] == 0 and signs[0] and signs[3]
    return signs if quarter or upright else (1, 0, 0, 1)


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """`[c, h, w]` mapped by a display matrix."""
    a, b, c, d = matrix
    if a == 0:
        return np.ascontiguousarray(pixels.swapaxes(1, 2)[:, ::b, ::c])
    return np.ascontiguousarray(pixels[:, ::d, ::a])
