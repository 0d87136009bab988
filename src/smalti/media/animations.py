"""Frame counts and times of GIF, WebP and PNG animations, read from their blocks without decoding."""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

SHORTEST = 0.1  # seconds a frame is shown when its file says 0 or 10 ms, as browsers do


def durations(path: Path, codec: str, most: int) -> list[float] | None:
    """Seconds that every frame is shown; at most `most + 1` of them. None if the codec is another."""
    walk = {"GIF": _gif, "WEBP": _webp, "PNG": _png}.get(codec)
    if walk is None:
        return None
    found: list[float] = []
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        contextlib.suppress(IndexError, struct.error),  # cut in the middle of a block
    ):
        found.extend(islice(walk(data), most + 1))
    return [shown if shown > 0.01 else SHORTEST for shown in found]


def _gif(data: mmap.mmap) -> Iterator[float]:
    """One loop without calls: a hostile file holds millions of blocks."""
    shown = 0.0
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position < len(data):
        block = data[position]
        if block == 0x21:  # an extension; the one of kind F9 holds the time of the next frame
            if data[position + 1] == 0xF9:
                shown = (data[position + 4] + 256 * data[position + 5]) / 100
            position += 2
        elif block == 0x2C:  # a frame
            yield shown
            shown = 0.0
            flags = data[position + 9]
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            return
        while length := data[position]:
            position += length + 1
        position += 1


def _webp(data: mmap.mmap) -> Iterator[float]:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"ANMF":
            yield int.from_bytes(data[position + 20 : position + 23], "little") / 1000
        position += 8 + length + length % 2


def _png(data: mmap.mmap) -> Iterator[float]:
    for kind, position in png_chunks(data):
        if kind == b"fcTL":
            numerator, denominator = struct.unpack_from(">HH", data, position + 20)
            yield numerator / (denominator or 100)


def png_chunks(data: mmap.mmap) -> Iterator[tuple[bytes, int]]:
    """The type of every chunk of a PNG, and where its content begins."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8
        position += 12 + length
