"""What a video container says before anything is decoded."""

from __future__ import annotations

import re
from pathlib import Path

import av

from smalti.errors import MediaError
from smalti.media.isobmff import VideoIndex

CLOCK_TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def first_bytes(path: Path) -> bytes:
    """The first 64 bytes, by which a format is told."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened: {error.strerror}") from error
    if not head:
        raise MediaError(f"{path}: the file is empty")
    return head


def video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The first video track that can be decoded."""
    if container.streams.video:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise MediaError(f"{path}: no decoder is known for its video track")
        return stream
    if container.streams.audio:
        raise MediaError(f"{path}: holds sound, but no video track")
    raise MediaError(f"{path}: holds no frame: it has neither video nor sound")


def promised_frames(stream: av.VideoStream, index: VideoIndex | None) -> int | None:
    """Frames that will be shown: those of the index, without what an edit list hides."""
    if index is None and stream.container.format.name == "avi":
        return len(stream.index_entries) or stream.frames or None  # its header counts pauses as frames
    if index is None:
        return stream.frames or None
    if not index.trimmed:
        return index.samples
    return index.samples - sum(entry.is_discard for entry in stream.index_entries)


def seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The video track's length: its own, the one Matroska notes as a tag, or the whole file's."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tag := CLOCK_TIME.fullmatch(stream.metadata.get("DURATION", "")):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if container.duration is not None and not container.streams.audio:
        return container.duration / av.time_base
    return None
