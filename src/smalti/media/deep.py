"""Pictures of more than eight bits a channel, through FFmpeg, which Pillow would cut to eight.

```
PNG, TIFF ── one packet ── decoder ─┬─ upright (EXIF) ── resize ──► RGB [3, h, w] of sixteen bits
AVIF ── mov demuxer ── Conversion ──┘
```
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from smalti.media.conversion import Conversion
from smalti.media.frames import Colour, over

SIDEWAYS = {5, 6, 7, 8}
AVIF_HEADER = 1 << 16  # bytes that hold the properties of any usual file


def read(
    path: Path, codec: str, orientation: int, size: tuple[int, int] | None, background: Colour
) -> np.ndarray:
    """A PNG or TIFF of sixteen bits and several channels."""
    context = av.CodecContext.create(codec, "r")
    packet = av.Packet(path.read_bytes())
    frame = [*context.decode(packet), *context.decode(None)][0]
    alpha = any(part.is_alpha for part in frame.format.components)
    pixels = frame.to_ndarray(format="rgba64le" if alpha else "rgb48le")
    if alpha:
        pixels = channels_last(over(channels_first(pixels), background))
    return channels_first(resize(orient(pixels, orientation), size))


def read_avif(path: Path, orientation: int, size: tuple[int, int] | None, background: Colour) -> np.ndarray:
    """An AVIF of ten or twelve bits without transparency."""
    with path.open("rb") as file, av.open(file) as container:
        frame = next(container.decode(video=0))
        upright = frame.side_data.get("DISPLAYMATRIX") is not None
        turned = size is not None and not upright and orientation in SIDEWAYS
        pixels = Conversion(frame, size[::-1] if turned else size, background)(frame)
    return pixels if upright else channels_first(orient(channels_last(pixels), orientation))


def avif_depth(path: Path) -> int:
    """Bits a channel, from the configuration of the AV1 decoder."""
    flags = (avif_box(path, b"av1C") or bytes(3))[2:3] or bytes(1)
    return 8 if not flags[0] & 0x40 else 12 if flags[0] & 0x20 else 10


def is_tiled(path: Path) -> bool:
    """Whether an AVIF is a grid of smaller pictures."""
    return avif_box(path, b"grid") is not None


def avif_box(path: Path, kind: bytes) -> bytes | None:
    """What follows a box's type in the header of an AVIF; None without such a box."""
    with path.open("rb") as file:
        head = file.read(AVIF_HEADER)
    place = head.find(kind)
    return None if place < 0 else head[place + len(kind) :]


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`[h, w, c]` brought upright, by EXIF orientation 1 to 8."""
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in {3, 4, 7, 8} else 1
    columns = -1 if orientation in {2, 3, 6, 7} else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def resize(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Sixteen-bit RGB at another size, without losing precision."""
    if size is None or pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    channels = [
        Image.fromarray(pixels[..., c].astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
        for c in range(3)
    ]
    return np.rint(np.stack([np.asarray(c) for c in channels], axis=2)).clip(0, 65535).astype(np.uint16)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """`[h, w, c]` as `[c, h, w]`."""
    return np.array(pixels.transpose(2, 0, 1), order="C")


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """`[c, h, w]` as `[h, w, c]`."""
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
