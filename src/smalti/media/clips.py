"""Videos, through FFmpeg (PyAV).

```
file ── index checked ── FFmpeg opens ── Budget ──┬─ all: decode in order
                                                  └─ some: packets listed, then group of pictures by group
frame ── swscale (colour and size in one pass) ── alpha over background ── upright (display matrix) ── RGB
```
Times are the container's presentation times, unshifted: they may start below 0, stand unevenly, or repeat;
a time that runs backwards is raised to the one before. Damage that FFmpeg can detect (checksums, broken
syntax, missing data) ends the clip with a fault; a flipped payload byte that still is valid syntax cannot
be told from a picture, since mp4 holds no checksums.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from smalti.errors import MediaError
from smalti.media.frames import WHITE, Colour, Frame, over
from smalti.media.info import Budget, Info
from smalti.media.isobmff import VideoIndex, is_isobmff, video_index

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
BEYOND_REPAIR = "copy the file again, or keep what is whole with on_truncated='keep'"
FULL_RANGE = 2


class Entry(NamedTuple):
    """A packet of the video track, as the container lists it."""

    pts: int
    key: int | None  # where to seek for it, if it begins a group of pictures


class ClipSource:
    """A video. See `FrameSource`.

    Raises:
        MediaError: empty, no video track, no frame, an index that is missing or contradicts itself, or
            nothing that FFmpeg knows.
        BudgetError: more pixels, frames or seconds than allowed, by the header alone.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        size: tuple[int, int] | None = None,
        background: Colour = WHITE,
    ) -> None:
        self.fault: MediaError | None = None
        self._path, self._size, self._background, self._budget = path, size, background, budget
        head = _first_bytes(path)
        index = video_index(path) if is_isobmff(head) else None
        budget.check_length(path, index and index.samples, None)
        with self._open(threads="SLICE") as container:
            stream = _video_stream(path, container)
            budget.check_frame(path, stream.height, stream.width)
            tick = stream.time_base or Fraction(1, 90_000)
            self._tick = float(tick)
            self._start = stream.start_time or 0
            seconds = _seconds(container, stream)
            rate = stream.average_rate
            frames = _promised(stream, index)
            budget.check_length(path, frames or _estimate(seconds, rate), seconds)
            self._rate = float(rate or stream.guessed_rate or 25)
            self._seek_by_dts = "mp4" in container.format.name
            first = self._first_frame(container, stream)
            self._matrix = _display_matrix(first)
            height, width = first.height, first.width
            if self._matrix[0] == 0:
                height, width = width, height
            budget.check_frame(path, height, width)
            parts = first.format.components
            self._alpha = any(part.is_alpha for part in parts) or first.format.has_palette
            depth = max(part.bits for part in parts)
            self._format = f"gbr{'a' if self._alpha else ''}p{'16le' if depth > 8 else ''}"
            self.info = Info(
                path=path,
                kind="clip",
                width=width,
                height=height,
                frames=frames,
                fps=float(rate) if rate else None,
                duration=seconds,
                time_base=self._tick,
                codec=stream.codec_context.codec.canonical_name,
                bit_depth=depth,
                has_audio=bool(container.streams.audio),
                has_alpha=self._alpha,
                rotation=int(first.rotation) % 360,
                colour_range="full"
                if first.color_range == FULL_RANGE
                or first.format.is_rgb
                or first.format.name.startswith("yuvj")
                else "limited",
            )

    def times(self) -> list[float]:
        """Seconds of every frame, from the packets; nothing is decoded."""
        return _rising([entry.pts * self._tick for entry in sorted(self._entries())])

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[Frame]:
        """The frames at these increasing places, or all. Stops at a fault."""
        if wanted is None:
            yield from self._in_order(None)
            return
        if not wanted:
            return
        entries = self._entries()
        span = wanted[-1] - wanted[0] + 1
        if not any(entry.key is not None for entry in entries) or len(wanted) > 0.9 * len(entries):
            yield from self._in_order(set(wanted))
        elif span and entries:
            yield from self._by_groups(wanted, entries)

    # -- decoding -----------------------------------------------------------------------------------------

    def _in_order(self, wanted: set[int] | None) -> Iterator[Frame]:
        """Decode from the beginning; all frames, or up to the last wanted."""
        reformatter = av.video.reformatter.VideoReformatter()
        count, previous = 0, -float("inf")
        last = max(wanted) if wanted else None
        container = self._open(threads="AUTO")
        with container:
            stream = container.streams.video[0]
            try:
                for frame in _decoded(container, stream):
                    seconds = self._time_of(frame, count, previous)
                    if wanted is None or count in wanted:
                        yield Frame(count, seconds, self._convert(frame, reformatter))
                    previous = seconds
                    count += 1
                    if last is not None and count > last:
                        return
                    if count > self._budget.frames:
                        self._budget.check_length(self._path, count, None)
            except av.FFmpegError as error:
                self._fail(count, str(error))
                return
        promised = self.info.frames
        if promised is not None and count != promised:
            self._fail(count, "the data ends early" if count < promised else "there are more than promised")
        elif promised is None and self._ends_early(previous):
            self._fail(
                count, f"the header promises {self.info.duration:.2f} seconds, it ends at {previous:.2f}"
            )

    def _by_groups(self, wanted: Sequence[int], entries: list[Entry]) -> Iterator[Frame]:
        """Decode only the groups of pictures that hold a wanted frame, and of those no more than needed."""
        reformatter = av.video.reformatter.VideoReformatter()
        shown = sorted(entry.pts for entry in entries)
        times = _rising([pts * self._tick for pts in shown])
        keys = sorted((entry.pts, entry.key) for entry in entries if entry.key is not None)
        key_times = [pts for pts, _ in keys]
        found = 0

        def group_of(index: int) -> int:
            return max(0, bisect_right(key_times, shown[index]) - 1)

        with self._open(threads="SLICE") as container:
            stream = container.streams.video[0]
            for group, members in groupby(wanted, key=group_of):
                targets: dict[int, list[int]] = defaultdict(list)
                for index in members:
                    targets[shown[index]].append(index - shown.index(shown[index]))
                try:
                    frames = self._group(container, stream, keys[group][1], set(targets))
                    ready = {pts: [f for f in frames if f.pts == pts] for pts in targets}
                except av.FFmpegError as error:
                    self._fail(found, str(error))
                    return
                for pts, copies in targets.items():
                    for copy in copies:
                        if copy >= len(ready[pts]):
                            self._fail(found, f"the frame at {pts * self._tick:.3f} seconds does not decode")
                            return
                        index = shown.index(pts) + copy
                        yield Frame(index, times[index], self._convert(ready[pts][copy], reformatter))
                        found += 1
        if self.info.frames is not None and len(entries) != self.info.frames:
            self._fail(len(entries), "the data ends early")

    def _group(
        self, container: av.container.InputContainer, stream: av.VideoStream, key: int, targets: set[int]
    ) -> list[av.VideoFrame]:
        """The target frames of one group: reads up to the last target's packet, skips what none refers to."""
        container.seek(key, stream=stream, backward=True)
        missing = set(targets)
        kept: list[av.VideoFrame] = []
        for packet in container.demux(stream):
            if packet.size == 0:
                break
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
            kept += [frame for frame in packet.decode() if frame.pts in targets]
            missing.discard(packet.pts)
            if not missing:
                break
        stream.codec_context.skip_frame = "DEFAULT"
        kept += [frame for frame in stream.codec_context.decode(None) if frame.pts in targets]
        if any(frame.is_corrupt for frame in kept):
            raise av.InvalidDataError(1, "a frame is damaged")
        return kept

    def _convert(
        self, frame: av.VideoFrame, reformatter: av.video.reformatter.VideoReformatter
    ) -> np.ndarray:
        """One decoded frame as upright RGB of the size wanted."""
        height, width = self._size or (self.info.height, self.info.width)
        if self._matrix[0] == 0:
            height, width = width, height
        converted = reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=self._format,
            interpolation=_scaler(frame, height, width),
            threads=1,
        )
        pixels = _planes(converted)
        if self._alpha:
            pixels = over(pixels, self._background)
        return _upright(pixels, self._matrix)

    # -- the container ------------------------------------------------------------------------------------

    def _open(self, threads: str) -> av.container.InputContainer:
        """The container, set to report every fault it can see."""
        name = str(self._path.absolute())
        try:
            name.encode()
            target = f"file:{name}"
        except UnicodeEncodeError:  # a name that is not UTF-8
            target = self._path.open("rb")
        try:
            container = av.open(
                target,
                metadata_errors="replace",
                options=STRICT | {"protocol_whitelist": "file", "max_pixels": str(self._budget.pixels)},
            )
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(
                f"{self._path}: not a picture or video that can be read "
                f"(it begins with {_first_bytes(self._path)[:16]!r}): {error}"
            ) from error
        for stream in container.streams.video:
            stream.codec_context.options = STRICT
            stream.thread_type = threads
        return container

    def _first_frame(self, container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
        try:
            for frame in _decoded(container, stream):
                return frame
        except av.FFmpegError as error:
            raise MediaError(
                f"{self._path}: the first frame does not decode: {error}",
                decoded=0,
                promised=stream.frames or None,
            ) from error
        if stream.frames:
            raise MediaError(
                f"{self._path}: no frame of the {stream.frames} promised is there: {BEYOND_REPAIR}",
                decoded=0,
                promised=stream.frames,
            )
        raise MediaError(f"{self._path}: the video track holds no frame", decoded=0, promised=0)

    def _entries(self) -> list[Entry]:
        """Every packet that will be shown, in the order of decoding; no keys where times are unknown."""
        entries: list[Entry] = []
        with self._open(threads="SLICE") as container:
            stream = container.streams.video[0]
            try:
                for packet in container.demux(stream):
                    if packet.size == 0 or packet.is_discard:
                        continue
                    key = packet.dts if self._seek_by_dts and packet.dts is not None else packet.pts
                    pts = packet.pts if packet.pts is not None else packet.dts
                    if pts is None:
                        pts = self._start + round(len(entries) / self._rate / self._tick)
                        key = None
                    entries.append(Entry(pts, key if packet.is_keyframe else None))
                    self._budget.check_length(self._path, len(entries), None)
            except av.FFmpegError:
                pass  # cut: what was listed can be decoded, and the count tells
        return entries

    def _time_of(self, frame: av.VideoFrame, count: int, previous: float) -> float:
        if frame.pts is None:
            return previous + 1 / self._rate if count else self._start * self._tick
        return max(frame.pts * self._tick, previous)

    def _ends_early(self, last: float) -> bool:
        """Whether a container that counts no frames promised more seconds than came."""
        if self.info.duration is None or self.info.fps is None:
            return False
        return last - self._start * self._tick + 2.5 / self.info.fps + 0.05 < self.info.duration

    def _fail(self, decoded: int, reason: str) -> None:
        promised = self.info.frames
        of = f" of {promised}" if promised is not None else ""
        self.fault = MediaError(
            f"{self._path}: damaged or cut: {decoded}{of} frames were read, then: {reason}; {BEYOND_REPAIR}",
            decoded=decoded,
            promised=promised,
        )


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown; raises at the first that is damaged."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise av.InvalidDataError(1, "a packet is damaged or cut")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise av.InvalidDataError(1, "a frame is damaged")
            yield frame


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened: {error.strerror}") from error
    if not head:
        raise MediaError(f"{path}: the file is empty")
    return head


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    if container.streams.video:
        return container.streams.video[0]
    if container.streams.audio:
        raise MediaError(f"{path}: holds sound, but no video track")
    raise MediaError(f"{path}: holds neither pictures nor video ({container.format.long_name})")


def _promised(stream: av.VideoStream, index: VideoIndex | None) -> int | None:
    """Frames that will be shown: those of the index, without what an edit list hides."""
    if index is None:
        return stream.frames or None
    if not index.trimmed:
        return index.samples
    return index.samples - sum(entry.is_discard for entry in stream.index_entries)


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The video track's length: its own, the one Matroska notes as a tag, or the whole file's."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if container.duration is not None and not container.streams.audio:
        return container.duration / av.time_base
    return None


def _estimate(seconds: float | None, rate: Fraction | None) -> int | None:
    return None if seconds is None or not rate else round(seconds * rate)


def _rising(times: list[float]) -> list[float]:
    return np.maximum.accumulate(np.asarray(times, dtype=np.float64)).tolist() if times else []


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
