"""Seconds or frames ──► the chunks that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from smalti.codec.header import Chunk, Header
from smalti.errors import ConfigError

Unit = Literal["seconds", "frames"]
Moment = int | float


@dataclass(frozen=True)
class Selection:
    """The chunks that a range of time touches.

    Attributes:
        chunks: their numbers.
        latents: their latent frames.
        frames: their source frames; these a read gives.
        wanted: the source frames that were asked for, all of them among `frames`.
    """

    chunks: range
    latents: range
    frames: range
    wanted: range


def select(
    header: Header,
    times: Float64[np.ndarray, "frames"] | None,
    start: Moment | None,
    end: Moment | None,
    unit: Unit,
) -> Selection:
    """Which chunks hold the frames shown in [start, end).

    Raises:
        ConfigError: no such frame, or seconds of a source whose times are not known.
    """
    frames = range(header.source.frames)
    if start is None and end is None:
        wanted = frames
    elif unit == "seconds":
        wanted = _shown(times, start, end)
    else:
        first, stop = int(start or 0), frames.stop if end is None else int(end)
        wanted = frames[max(first, 0) : max(stop, 0)]
    if not wanted:
        extent = "" if times is None else f", seconds {times.min():g} to {times.max():g}"
        raise ConfigError(
            f"no frame in {unit} {start} to {end}: the file holds frames 0 to {frames.stop - 1}{extent}"
        )
    return _covering(header.chunks, wanted, frames)


def _shown(times: Float64[np.ndarray, "frames"] | None, start: Moment | None, end: Moment | None) -> range:
    """Frames on the screen at some moment of [start, end): each stays until the next; the last, as long
    as they usually do."""  # fmt: skip
    if times is None:
        raise ConfigError("the file holds neither rate nor times: choose by frames instead of seconds")
    usual = np.median(np.diff(times)) if len(times) > 1 else np.inf
    until = np.append(times[1:], times[-1] + usual)
    begun = times < (np.inf if end is None else end)
    shown = np.flatnonzero(begun & (until > (-np.inf if start is None else start)))
    return range(int(shown[0]), int(shown[-1]) + 1) if len(shown) else range(0)


def _covering(chunks: tuple[Chunk, ...], wanted: range, frames: range) -> Selection:
    touched = [i for i, c in enumerate(chunks) if c.frame < wanted.stop and wanted.start < c.frame + c.frames]
    stop = len(chunks) if wanted.stop == frames.stop else touched[-1] + 1  # the rest holds padding alone
    first, last = chunks[touched[0]], chunks[stop - 1]
    return Selection(
        chunks=range(touched[0], stop),
        latents=range(first.latent, last.latent + last.latents),
        frames=range(first.frame, last.frame + last.frames),
        wanted=wanted,
    )
