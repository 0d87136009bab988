"""The sample tables of mp4 and mov files, checked before FFmpeg allocates what they claim.

```
file ── moov ─┬─ mvhd                        the movie's clock
              └─ trak ─┬─ tkhd                 how long the track is shown
                       ├─ edts ── elst         what part of it is shown
                       └─ mdia ─┬─ mdhd        the track's clock and length
                                └─ minf ── stbl ─┬─ stts   samples by duration
                                                 ├─ ctts   samples by delay
                                                 ├─ stsz   samples by size
                                                 ├─ stsc   samples a chunk
                                                 └─ stco   chunks by offset
```
FFmpeg believes each table alone; a flipped byte in one makes it drop or invent frames in silence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from smalti.errors import MediaError

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}
TABLES = {
    b"mvhd",
    b"tkhd",
    b"mdhd",
    b"hdlr",
    b"elst",
    b"stts",
    b"ctts",
    b"stsz",
    b"stz2",
    b"stsc",
    b"stco",
    b"co64",
}
LARGEST_TABLE = 2**28
USUAL_CLOCKS = (600, 1000, 90_000)  # ticks a second of movies


class Box(NamedTuple):
    """A box: its type, where its content starts and ends."""

    kind: bytes
    start: int
    end: int


class VideoIndex(NamedTuple):
    """What the index says of the first video track.

    Attributes:
        samples: frames that are stored.
        trimmed: whether an edit list shows only a part of them.
    """

    samples: int
    trimmed: bool


def is_isobmff(head: bytes) -> bool:
    """Whether the first bytes of a file are those of the mp4 family."""
    return len(head) >= 8 and head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


def video_index(path: Path) -> VideoIndex | None:
    """The index of the first video track; None if the file is fragmented or has no video track.

    Raises:
        MediaError: the index is missing, cut, or its tables contradict each other.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        moov = next((box for box in _boxes(file, 0, size) if box.kind == b"moov"), None)
        if moov is None:
            raise MediaError(
                f"{path}: the index (moov box) is missing: the file was cut or never finished; "
                "copy it again, or record it with the index in front (faststart)"
            )
        if moov.end > size:
            raise MediaError(f"{path}: the index (moov box at byte {moov.start - 8}) is cut at byte {size}")
        boxes = list(_boxes(file, moov.start, moov.end))
        movie = next((_clock(_content(file, box)) for box in boxes if box.kind == b"mvhd"), None)
        for track in (box for box in boxes if box.kind == b"trak"):
            tables = dict(_tables(file, track.start, min(track.end, moov.end)))
            if tables.get(b"hdlr", b"")[8:12] == b"vide":
                samples = _count(path, tables)
                return VideoIndex(samples, _trimmed(path, samples, tables, movie)) if samples else None
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header[:8])
        content = start + 8
        if length == 1 and len(header) == 16:
            length, content = struct.unpack(">Q", header[8:])[0], start + 16
        elif length == 0:
            length = end - start
        if length < content - start:
            return
        yield Box(kind, content, start + length)
        start += length


def _tables(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    for box in _boxes(file, start, end):
        inside = box._replace(end=min(box.end, end))
        if box.kind in CONTAINERS:
            yield from _tables(file, inside.start, inside.end)
        elif box.kind in TABLES:
            yield box.kind, _content(file, inside)


def _content(file: BinaryIO, box: Box) -> bytes:
    file.seek(box.start)
    return file.read(min(box.end - box.start, LARGEST_TABLE))


def _count(path: Path, tables: dict[bytes, bytes]) -> int:
    """Samples of one track, after comparing what its tables say."""
    sizes = tables.get(b"stsz") or tables.get(b"stz2") or b""
    if len(sizes) < 12 or len(tables.get(b"stts", b"")) < 8:
        raise MediaError(f"{path}: the video track's sample tables (stsz, stts) are missing or cut")
    by_size = struct.unpack(">I", sizes[8:12])[0]
    steps = list(_rows(tables[b"stts"], 2))
    offsets = tables.get(b"stco") or tables.get(b"co64") or b""
    chunks = struct.unpack(">I", offsets[4:8])[0] if len(offsets) >= 8 else 0
    counts = {
        "a time": sum(count for count, _ in steps),
        "a place": _samples_in_chunks(list(_rows(tables.get(b"stsc", b""), 3)), chunks),
    }
    if b"ctts" in tables:
        counts["a delay"] = sum(count for count, _ in _rows(tables[b"ctts"], 2))
    for what, count in counts.items():
        if count != by_size:
            raise MediaError(
                f"{path}: the index contradicts itself: {by_size} samples have a size, {count} {what}",
                promised=max(by_size, count),
            )
    _, length = _clock(tables.get(b"mdhd", b"")) or (0, 0)
    by_steps = sum(count * step for count, step in steps)
    slack = 1.5 * length / max(by_size, 1)
    if by_size and length and abs(by_steps - length) > slack:
        shown = _extent(steps, list(_rows(tables.get(b"ctts", b""), 2)) or [(by_size, 0)])
        longest = max(step for _, step in steps)
        if not shown - slack <= length <= shown + slack + longest:
            raise MediaError(
                f"{path}: the index contradicts itself: its track lasts {length} ticks, "
                f"its frames {by_steps}",
                promised=by_size,
            )
    return by_size


def _extent(steps: list[tuple[int, ...]], delays: list[tuple[int, ...]]) -> int:
    """Ticks from the first frame shown to the last: decoding times, by runs of steps, plus runs of delays.

    Uneven frames that are stored out of order take another time to decode than to show.
    """
    later = iter(delays)
    left, delay, time, moments = 0, 0, 0, []
    for count, step in steps:
        while count:
            if not left:
                left, delay = next(later)
                delay -= (delay >> 31) << 32  # version 1 knows negative delays; larger ones nobody writes
                continue
            run = min(count, left)
            moments += [time + delay, time + (run - 1) * step + delay]
            time, count, left = time + run * step, count - run, left - run
    return max(moments) - min(moments)


def _clock(header: bytes) -> tuple[int, int] | None:
    """Ticks a second and length in ticks (0 when unknown) of an mvhd or mdhd box."""
    layout, start, unknown = (">IQ", 20, 2**64 - 1) if header[:1] == b"\1" else (">II", 12, 2**32 - 1)
    if len(header) < start + struct.calcsize(layout):
        return None
    ticks, length = struct.unpack_from(layout, header, start)
    return ticks, 0 if length == unknown else length


def _trimmed(path: Path, samples: int, tables: dict[bytes, bytes], movie: tuple[int, int] | None) -> bool:
    """Whether the edit list hides a part of the track; a last frame that lasts no time falls out."""
    edits = tables.get(b"elst", b"")
    track = _clock(tables.get(b"mdhd", b""))
    if len(edits) < 8 or not movie or not track or not movie[0] or not track[0] or not track[1]:
        return False
    layout = ">QqI" if edits[0] == 1 else ">IiI"
    rows = edits[8 : 8 + (len(edits) - 8) // struct.calcsize(layout) * struct.calcsize(layout)]
    lengths = [(length, start) for length, start, _ in struct.iter_unpack(layout, rows)]
    ticks = sum(length for length, start in lengths if start >= 0)
    shown, stored = ticks / movie[0], track[1] / track[0]
    slack = 1.5 * stored / samples + 1 / movie[0]
    whole = _track_length(tables.get(b"tkhd", b""))
    totals = (ticks, sum(length for length, _ in lengths))
    steps = list(_rows(tables[b"stts"], 2))
    shortest = min((step for _, step in steps if step), default=0) / track[0]
    last_begins = (sum(count * step for count, step in steps) - steps[-1][1]) / track[0]
    problem = None
    if whole and all(abs(whole - total) > slack / 3 * movie[0] for total in totals):
        problem = f"its edit list shows {ticks} ticks, its track {whole}"
    elif len(lengths) == 1 and shown > stored + slack:
        problem = f"{shown:.3f} seconds are shown, {stored:.3f} stored"
    elif samples > 1 and 0 < shown < shortest / 2:
        problem = f"{shown:.6f} seconds are shown, but the shortest frame lasts {shortest:.3f}"
    elif movie[0] not in (*USUAL_CLOCKS, track[0]) and any(
        abs(ticks / clock - stored) <= 2 / clock for clock in USUAL_CLOCKS
    ):
        problem = f"by a clock of {movie[0]} ticks a second {shown:.3f} of {stored:.3f} seconds are shown"
    if problem is not None:
        raise MediaError(f"{path}: the index contradicts itself: {problem}", promised=samples)
    return shown > 0 and (shown < stored - slack / 3 or shown <= last_begins)


def _track_length(header: bytes) -> int:
    """The length in a tkhd box, in ticks of the movie's clock; 0 when unknown."""
    layout, start = (">Q", 28) if header[:1] == b"\1" else (">I", 20)
    if len(header) < start + struct.calcsize(layout):
        return 0
    length = struct.unpack_from(layout, header, start)[0]
    return 0 if length == 2 ** (8 * struct.calcsize(layout)) - 1 else length


def _rows(table: bytes, columns: int) -> Iterator[tuple[int, ...]]:
    """The rows of a table after its version and row count; no more than the table really holds."""
    if len(table) < 8:
        return
    claimed = struct.unpack(">I", table[4:8])[0]
    width = 4 * columns
    rows = min(claimed, (len(table) - 8) // width)
    yield from struct.iter_unpack(f">{columns}I", table[8 : 8 + rows * width])


def _samples_in_chunks(runs: list[tuple[int, ...]], chunks: int) -> int:
    """Samples that the runs (first chunk, samples a chunk, description) place in this many chunks."""
    ends = [*(first for first, _, _ in runs[1:]), chunks + 1]
    return sum(max(0, end - first) * samples for (first, samples, _), end in zip(runs, ends, strict=False))
