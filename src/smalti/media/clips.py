"""Videos, through FFmpeg (PyAV).

```
file ── index checked ── FFmpeg opens ── Budget ──┬─ all: decode in order
                                                  └─ some: packets listed, then group of pictures by group
frame ── swscale (colour and size in one pass) ── alpha over background ── upright (display matrix) ── RGB
```
Times are the container's presentation times, unshifted: they may start below 0, stand unevenly, or repeat;
a time that runs backwards is raised to the one before. Damage that FFmpeg can detect (checksums, broken
syntax, missing data) ends the clip with a fault, or, with `damaged="skip"`, is passed over: FFmpeg then
repairs what it can inside a frame; frames that do not decode are left out and counted, and none is put in
their place. A flipped payload byte that still is valid syntax cannot be told from a picture: mp4 holds no
checksums.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np

from smalti.errors import MediaError
from smalti.media import header
from smalti.media.conversion import Conversion, is_full_range
from smalti.media.decoding import BEYOND_REPAIR, FAULTS, Damage, decoded, first_frame, reason
from smalti.media.frames import WHITE, Colour, Frame
from smalti.media.info import Budget, Info
from smalti.media.isobmff import is_isobmff, video_index

LENIENT = {"err_detect": "crccheck+bitstream+buffer"}
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
CLOCK = Fraction(1, 90_000)
DENSE = 0.9  # from this share of wanted frames on, decoding in order is no slower


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
        skip: bool = False,
    ) -> None:
        self.fault: MediaError | None = None
        self.frames_corrupt = 0
        self._path, self._budget, self._skip = path, budget, skip
        self._detect = LENIENT if skip else STRICT
        self._options = self._detect | {"protocol_whitelist": "file", "max_pixels": str(budget.pixels)}
        index = video_index(path) if is_isobmff(header.first_bytes(path)) else None
        budget.check_length(path, index and index.samples, None)
        with self._open(threads="SLICE") as container:
            stream = header.video_stream(path, container)
            budget.check_frame(path, stream.height, stream.width)
            seconds, rate = header.seconds(container, stream), stream.average_rate
            frames = header.promised_frames(stream, index)
            estimate = round(seconds * rate) if seconds is not None and rate else None
            budget.check_length(path, frames or estimate, seconds)
            self._tick = float(stream.time_base or CLOCK)
            self._start = stream.start_time or 0
            self._rate = float(rate or stream.guessed_rate or 25)
            self._seek_by_dts = "mp4" in container.format.name
            first = first_frame(path, container, stream, skip)
            self._convert = Conversion(first, size, background)
            budget.check_frame(path, self._convert.height, self._convert.width)
            self.info = Info(
                path=path,
                kind="clip",
                width=self._convert.width,
                height=self._convert.height,
                frames=frames,
                fps=float(rate) if rate else None,
                duration=seconds,
                time_base=self._tick,
                codec=stream.codec_context.codec.canonical_name,
                bit_depth=self._convert.depth,
                has_audio=bool(container.streams.audio),
                has_alpha=self._convert.alpha,
                rotation=int(first.rotation) % 360,
                colour_range="full" if is_full_range(first) else "limited",
            )

    def times(self) -> list[float]:
        """Seconds of every frame, from the packets; nothing is decoded."""
        return _rising([entry.pts * self._tick for entry in self._entries()])

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[Frame]:
        """The frames at these increasing places, or all. Stops at a fault."""
        if self._skip:
            yield from self._past_damage(wanted)
            return
        if wanted is None:
            yield from self._in_order(None)
            return
        if not wanted:
            return
        entries = self._entries()
        distinct = len({entry.pts for entry in entries}) == len(entries)
        known = bool(entries) and entries[0].key is not None
        if distinct and known and len(wanted) <= DENSE * len(entries):
            yield from self._by_groups(wanted, entries)
        else:
            yield from self._in_order(set(wanted))

    # -- decoding -----------------------------------------------------------------------------------------

    def _in_order(self, wanted: set[int] | None) -> Iterator[Frame]:
        """Decode from the beginning; all frames, or up to the last wanted."""
        count, previous, end = 0, -float("inf"), -float("inf")
        last = max(wanted) if wanted else None
        with self._open(threads="AUTO") as container:
            stream = container.streams.video[0]
            try:
                for frame in decoded(container, stream):
                    seconds = self._time_of(frame, count, previous)
                    if wanted is None or count in wanted:
                        yield Frame(count, seconds, self._convert(frame))
                    previous, end = seconds, seconds + (frame.duration or 0) * self._tick
                    count += 1
                    if last is not None and count > last:
                        return
                    if count > self._budget.frames:
                        self._budget.check_length(self._path, count, None)
            except FAULTS as error:
                self._fail(count, reason(error))
                return
        promised = self.info.frames
        if promised is not None and count > promised:
            self._fail(count, "there are more than promised")
        elif last is not None or (promised is not None and count < promised):
            self._fail(count, "the rest is missing or does not decode")
        elif promised is None and self._ends_early(end):
            self._fail(count, f"the header promises {self.info.duration:.2f} seconds, it ends at {end:.2f}")

    def _past_damage(self, wanted: Sequence[int] | None) -> Iterator[Frame]:
        """Decode from the beginning, leave out what does not decode; packets tell which frames these are."""
        entries = self._entries()
        places = {entry.pts: place for place, entry in reversed([*enumerate(entries)])}  # the first of equals
        asked = set(range(len(entries)) if wanted is None else wanted)
        count, previous, given = 0, -float("inf"), 0
        with self._open(threads="SLICE") as container:
            stream = container.streams.video[0]
            for frame in decoded(container, stream, skip=True):
                place = max(places.get(frame.pts, count), count)
                seconds = self._time_of(frame, place, previous)
                if place in asked:
                    yield Frame(place, seconds, self._convert(frame))
                    given += 1
                previous, count = seconds, place + 1
                if asked and count > max(asked):
                    break
        self.frames_corrupt = len(asked) - given
        if self.info.frames is not None and len(entries) < self.info.frames:
            self._fail(len(entries), "the data ends early")

    def _by_groups(self, wanted: Sequence[int], entries: list[Entry]) -> Iterator[Frame]:
        """Decode only the groups of pictures that hold a wanted frame, and of those no more than needed."""
        shown = [entry.pts for entry in entries]
        times = _rising([pts * self._tick for pts in shown])
        keys = sorted((entry.pts, entry.key) for entry in entries if entry.key is not None)
        key_times = [pts for pts, _ in keys]
        left = list(wanted)
        with self._open(threads="SLICE") as container:
            stream = container.streams.video[0]
            while left:
                group = max(0, bisect_right(key_times, shown[left[0]]) - 1)
                following = key_times[group + 1] if group + 1 < len(keys) else float("inf")
                members = [index for index in left if shown[index] < following]
                try:
                    frames = self._group(container, stream, keys[group][1], {shown[i] for i in members})
                except FAULTS as error:
                    self._fail(len(wanted) - len(left), reason(error))
                    return
                if len(frames) < len(members):
                    break  # this container does not seek as it says
                for index in members:
                    yield Frame(index, times[index], self._convert(frames[shown[index]]))
                left = left[len(members) :]
        if left:
            yield from self._in_order(set(left))
        elif self.info.frames is not None and len(entries) != self.info.frames:
            self._fail(len(entries), "the data ends early")

    def _group(
        self, container: av.container.InputContainer, stream: av.VideoStream, key: int, targets: set[int]
    ) -> dict[int, av.VideoFrame]:
        """Target frames of one group: reads up to the last target's packet, skips what none refers to."""
        container.seek(key, stream=stream, backward=True)
        missing = set(targets)
        frames: list[av.VideoFrame] = []
        for packet in container.demux(stream):
            if packet.size == 0:
                break
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
            frames += packet.decode()
            missing.discard(packet.pts)
            if not missing:
                break
        stream.codec_context.skip_frame = "DEFAULT"
        frames += stream.codec_context.decode(None)
        kept = {frame.pts: frame for frame in frames if frame.pts in targets}
        if any(frame.is_corrupt for frame in kept.values()):
            raise Damage("a frame is damaged")
        return kept

    # -- the container ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, threads: str) -> Iterator[av.container.InputContainer]:
        """The container, set to report every fault it can see."""
        with contextlib.ExitStack() as stack:
            name = str(self._path.absolute())
            try:
                name.encode()
                target: str | BinaryIO = f"file:{name}"
            except UnicodeEncodeError:  # a name that is not UTF-8
                target = stack.enter_context(self._path.open("rb"))
            try:
                container = stack.enter_context(
                    av.open(target, metadata_errors="replace", options=self._options)
                )
            except av.error.EOFError as error:
                raise MediaError(
                    f"{self._path}: holds no frame: the file ends after its header", decoded=0
                ) from error
            except (av.FFmpegError, ValueError) as error:
                raise MediaError(
                    f"{self._path}: not a picture or video that can be read "
                    f"(it begins with {header.first_bytes(self._path)[:16]!r}): {reason(error)}"
                ) from error
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.options = self._detect
                    stream.thread_type = threads
            yield container

    def _entries(self) -> list[Entry]:
        """Every packet that will be shown, in the order of showing; no keys where times are unknown."""
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
        return sorted(entries, key=lambda entry: entry.pts)

    def _time_of(self, frame: av.VideoFrame, count: int, previous: float) -> float:
        if frame.pts is None:
            return previous + 1 / self._rate if count else self._start * self._tick
        return max(frame.pts * self._tick, previous)

    def _ends_early(self, end: float) -> bool:
        """Whether a container that counts no frames promised more seconds than came.

        Some writers count a late clip's seconds from 0, others from its first frame.
        """
        if self.info.duration is None or self.info.fps is None:
            return False
        return end - min(self._start * self._tick, 0.0) + 2.5 / self.info.fps + 0.05 < self.info.duration

    def _fail(self, decoded: int, cause: str) -> None:
        promised = self.info.frames
        of = f" of {promised}" if promised is not None else ""
        self.fault = MediaError(
            f"{self._path}: damaged or cut: {decoded}{of} frames were read, then: {cause}; {BEYOND_REPAIR}",
            decoded=decoded,
            promised=promised,
        )


def _rising(times: list[float]) -> list[float]:
    return np.maximum.accumulate(np.asarray(times, dtype=np.float64)).tolist() if times else []
