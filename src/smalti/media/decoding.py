"""Packets → frames, strictly or past what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av

from smalti.errors import MediaError

BEYOND_REPAIR = (
    "copy the file again, keep what is whole with on_truncated='keep', or go on past it with damaged='skip'"
)


class Damage(Exception):
    """A packet or frame that FFmpeg gave out, but marked as damaged."""


FAULTS = (av.FFmpegError, Damage)


def decoded(
    container: av.container.InputContainer, stream: av.VideoStream, skip: bool = False
) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown; raises at the first that is damaged, or goes on without it.

    What cannot be decoded before the first whole frame is passed over in any case, since a clip that was cut
    out of another may begin in the middle of a group of pictures; the count of frames tells.
    """
    begun, fault = False, None
    packets = container.demux(stream)
    while (packet := _next(packets, skip)) is not None:
        try:
            if packet.is_corrupt:
                raise Damage("a packet is damaged or cut")
            for frame in packet.decode():
                if not frame.is_corrupt:
                    begun = True
                    yield frame
                elif not skip:
                    raise Damage("a frame is damaged")
        except FAULTS as error:
            if begun and not skip:
                raise
            fault = error
    if fault is not None and not begun:
        raise fault


def _next(packets: Iterator[av.Packet], skip: bool) -> av.Packet | None:
    """The next packet; None at the end, and, when damage is skipped, where the container breaks off."""
    try:
        return next(packets, None)
    except av.FFmpegError:
        if skip:
            return None
        raise


def reason(error: Exception) -> str:
    """What a fault says of itself."""
    return getattr(error, "strerror", None) or str(error)


def first_frame(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, skip: bool
) -> av.VideoFrame:
    """The first frame that decodes.

    Raises:
        MediaError: there is none.
    """
    try:
        for frame in decoded(container, stream, skip):
            return frame
    except FAULTS as error:
        raise MediaError(
            f"{path}: the first frame does not decode: {reason(error)}",
            decoded=0,
            promised=stream.frames or None,
        ) from error
    if stream.frames:
        raise MediaError(
            f"{path}: no frame of the {stream.frames} promised is there: {BEYOND_REPAIR}",
            decoded=0,
            promised=stream.frames,
        )
    raise MediaError(f"{path}: the video track holds no frame", decoded=0, promised=0)
