"""Files → pixels: `probe`, `read`, `open_clip`.

```
path ── probe ──► Info
     ── read ──► Media: pixels [1 3 t h w], times, fps, info
     ── open_clip ── chunks(n) ──► Chunk, Chunk, …   n frames at once, whatever the length
```
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, MediaError
from smalti.media.clips import ClipSource
from smalti.media.frames import WHITE, Colour, Frame, FrameSource, steady_rate
from smalti.media.images import ImageSource, is_picture
from smalti.media.info import DEFAULT, Budget, Info, Number
from smalti.media.progress import Report, track
from smalti.media.sampling import Sampling

OnTruncated = Literal["error", "keep"]
Damaged = Literal["refuse", "skip"]
StrPath = str | os.PathLike[str]


class Chunk(NamedTuple):
    """Some frames that follow each other, and their seconds."""

    pixels: Float[Tensor, "1 3 t h w"]
    times: tuple[Number, ...]


@dataclass(frozen=True)
class Media:
    """A picture (t = 1) or clip in memory.

    Attributes:
        pixels: RGB in [0, 1], float32.
        times: seconds of every frame on the file's clock.
        fps: frames a second where the frames stand evenly, else None.
        info: what the file's header says.
        fault: the damage that ended the clip early, where `on_truncated="keep"` let it pass.
        frames_corrupt: frames that do not decode and were left out, where `damaged="skip"` let them pass.
    """

    pixels: Float[Tensor, "1 3 t h w"]
    times: tuple[Number, ...]
    fps: Number | None
    info: Info
    fault: MediaError | None = None
    frames_corrupt: int = 0


def _open_source(
    path: StrPath,
    budget: Budget,
    size: tuple[int, int] | None = None,
    background: Colour = WHITE,
    damaged: Damaged = "refuse",
) -> FrameSource:
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a folder: list its files with sources()")
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty")
    if size is not None:
        if min(size) < 1:
            raise ConfigError(f"size={size}: height and width must be at least 1")
        budget.check_frame(path, *size)
    if is_picture(path):
        return ImageSource(path, budget, size, background)
    return ClipSource(path, budget, size, background, skip=damaged == "skip")


def probe(path: StrPath, budget: Budget = DEFAULT) -> Info:
    """What a file's header says.

    Raises:
        MediaError: missing, empty, or nothing that can be read as a picture or clip.
        BudgetError: more than the budget allows.
    """
    return _open_source(path, budget).info


class ClipReader:
    """A clip that is read in chunks, in memory that does not grow with its length. See `open_clip`.

    Attributes:
        info: what the header says.
        fault: the damage that ended the clip early, where `on_truncated="keep"` let it pass.
    """

    def __init__(
        self, source: FrameSource, sampling: Sampling, budget: Budget, size: tuple[int, int], keep: bool
    ) -> None:
        self._source, self._sampling, self._budget, self._keep = source, sampling, budget, keep
        self.height, self.width = size
        self.info = source.info
        self.fault: MediaError | None = None
        self._chosen = None if sampling.everything else sampling.choose(source.times())

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def frames_corrupt(self) -> int:
        """Frames that do not decode and were left out so far, with `damaged="skip"`; known at the end."""
        return self._source.frames_corrupt

    def times(self) -> tuple[Number, ...]:
        """Seconds of the frames that will come, from the packets; nothing is decoded."""
        return tuple(self._source.times() if self._chosen is None else self._chosen[1])

    @property
    def expected(self) -> int | None:
        """Frames that will come, as far as the header tells."""
        return len(self._chosen[0]) if self._chosen is not None else self.info.frames

    def chunks(self, n: int = 16) -> Iterator[Chunk]:
        """The frames from the first, `n` at once; the last chunk may be shorter.

        Raises:
            MediaError: damage, after the frames before it were given (`decoded`, `promised`).
            BudgetError: a chunk larger, or a clip longer, than allowed.
        """
        if n < 1:
            raise ConfigError(f"chunks({n}): at least one frame a chunk")
        self._budget.check_bytes(self.info.path, min(n, self.expected or n), self.height, self.width)
        frames = self.frames()
        while held := list(islice(frames, n)):
            yield Chunk(_to_pixels(held), tuple(frame.seconds for frame in held))

    def frames(self) -> Iterator[Frame]:
        """The frames one by one, as the eight or sixteen bits they were stored in.

        Raises:
            MediaError: damage, after the frames before it were given (`decoded`, `promised`).
            BudgetError: a clip longer than allowed.
        """
        yield from self._chosen_frames()
        self.fault = self._source.fault
        if self.fault is not None and not self._keep:
            raise self.fault

    def _chosen_frames(self) -> Iterator[Frame]:
        if self._chosen is None:
            yield from self._source.frames()
            return
        places, times = self._chosen
        if not places:
            start, end = self._sampling.start, self._sampling.end
            raise MediaError(f"{self.info.path}: no frame lies between {start} and {end} seconds")
        decoded = self._source.frames(sorted(set(places)))
        current = next(decoded, None)
        for place, seconds in zip(places, times, strict=True):
            while current is not None and current.index < place:
                current = next(decoded, None)
            if current is None:
                return
            if current.index == place:  # else this one does not decode and was left out
                yield current._replace(seconds=seconds)
        next(decoded, None)  # lets the source compare what came with what was promised


def open_clip(
    path: StrPath,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    fps: Number | None = None,
    start: Number | None = None,
    end: Number | None = None,
    budget: Budget = DEFAULT,
    background: Colour = WHITE,
    on_truncated: OnTruncated = "error",
    damaged: Damaged = "refuse",
) -> ClipReader:
    """A picture or clip to be read chunk by chunk: `with open_clip(path) as clip: for c in clip.chunks(16)`.

    The arguments and errors are those of `read`.
    """
    if on_truncated not in ("error", "keep"):
        raise ConfigError(f"on_truncated={on_truncated!r}: choose 'error' or 'keep'")
    if damaged not in ("refuse", "skip"):
        raise ConfigError(f"damaged={damaged!r}: choose 'refuse' or 'skip'")
    sampling = Sampling(frames, fps, start, end)
    source = _open_source(path, budget, size, background, damaged)
    shape = size or (source.info.height, source.info.width)
    return ClipReader(source, sampling, budget, shape, on_truncated == "keep")


def read(
    path: StrPath,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    fps: Number | None = None,
    start: Number | None = None,
    end: Number | None = None,
    budget: Budget = DEFAULT,
    background: Colour = WHITE,
    on_truncated: OnTruncated = "error",
    damaged: Damaged = "refuse",
    progress: bool | Report | None = None,
) -> Media:
    """A whole picture or clip, or a sample of it, as float32 RGB in [0, 1].

    Args:
        path: a picture, animation or video; told by its content, not by its name.
        size: (height, width) to resize to, in the pass that converts the colours; the aspect is not kept.
        frames: this many, spread evenly (all, if the clip has no more); only the groups of pictures they
            lie in are decoded.
        fps: the frame on display at every 1/fps seconds.
        start, end: only frames with start ≤ time < end, in seconds on the file's clock.
        budget: limits, checked before allocation.
        background: RGB in [0, 1] that transparent pixels are laid over.
        on_truncated: `error` raises for a damaged or cut clip; `keep` returns the frames before the damage
            and notes it in `Media.fault`.
        damaged: `refuse` takes a frame that FFmpeg calls broken for the end of what can be trusted; `skip`
            goes on past it as players do, leaves out what does not decode and counts it in `frames_corrupt`.
            It decodes from the first frame on, and a frame that is kept may have repaired parts.
        progress: see `track`.

    Raises:
        MediaError: missing, empty, unreadable, damaged or cut; `decoded` and `promised` count frames.
        BudgetError: more pixels, frames, seconds or bytes than allowed.
        ConfigError: options that contradict each other.
    """
    with open_clip(
        path,
        size=size,
        frames=frames,
        fps=fps,
        start=start,
        end=end,
        budget=budget,
        background=background,
        on_truncated=on_truncated,
        damaged=damaged,
    ) as clip:
        expected = clip.expected
        budget.check_bytes(clip.info.path, expected or 1, clip.height, clip.width)
        held: list[Frame] = []
        for frame in track(clip.frames(), f"reading {clip.info.path.name}", expected, progress):
            held.append(frame)
            budget.check_bytes(clip.info.path, len(held), clip.height, clip.width)
    if not held:
        raise clip.fault or MediaError(f"{clip.info.path}: holds no frame", decoded=0, promised=0)
    times = tuple(frame.seconds for frame in held)
    nominal = clip.info.fps if fps is None else fps
    steady = steady_rate(times, clip.info.time_base, nominal) if len(times) > 1 else clip.info.fps
    return Media(_to_pixels(held), times, steady, clip.info, clip.fault, clip.frames_corrupt)


def _to_pixels(frames: list[Frame]) -> Float[Tensor, "1 3 t h w"]:
    """Frames of eight or sixteen bits as one float tensor."""
    _, height, width = frames[0].pixels.shape
    white = float(np.iinfo(frames[0].pixels.dtype).max)
    # numpy asks for huge pages, torch does not: this allocation is three times as fast as torch.empty
    pixels = torch.from_numpy(np.empty((1, 3, len(frames), height, width), np.float32))
    for t, frame in enumerate(frames):
        torch.div(torch.from_numpy(frame.pixels), white, out=pixels[0, :, t])
    return pixels
