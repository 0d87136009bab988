"""From the bytes of one file in a package to items of the corpus."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import av

from smalti.errors import MediaError
from smalti.training.corpora.manifest import Item, write_whole
from smalti.training.corpora.recipe import Source, Take
from smalti.training.corpora.screen import look
from smalti.training.corpora.unpack import INSIDE

FILES = "files"


@dataclass(frozen=True)
class Piece:
    """One file of a package, and what the recipe says of it."""

    content: bytes
    inner: str
    source: Source
    take: Take

    @property
    def file(self) -> str:
        """Its place in the corpus: readable, and its own for every inner path."""
        last = PurePosixPath(self.inner.replace(INSIDE, "/"))
        words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.source.name}_{last.stem}").strip("-")
        mark = hashlib.sha256(self.inner.encode()).hexdigest()[:8]
        return f"{FILES}/{words}-{mark}{last.suffix.lower()}"

    @property
    def origin(self) -> dict[str, Any]:
        """The fields of an item that do not depend on its medium."""
        return {
            "file": self.file,
            "package": self.source.name,
            "version": self.source.version,
            "inner": self.inner,
            "licence": self.source.licence,
            "sha256": hashlib.sha256(self.content).hexdigest(),
        }


def picture_items(piece: Piece, known: list[Item], dropped: dict[str, str], root: Path) -> list[Item]:
    """Write a picture and return its item, or note in `dropped` why it is none."""
    origin = piece.origin
    try:
        seen = look(piece.content)
    except OSError:
        dropped[piece.inner] = "not a picture"
        return []
    twin = next((other for other in known if other.sha256 == origin["sha256"] or seen.like(other.hash)), None)
    fault = seen.fault or (twin and f"a double of {twin.file}")
    if fault:
        dropped[piece.inner] = fault
        return []
    write_whole(root / piece.file, piece.content)
    return [Item(**origin, split=piece.take.split, width=seen.width, height=seen.height, hash=seen.hash)]


def clip_items(piece: Piece, root: Path) -> list[Item]:
    """Write a clip; one item for each split that it goes to."""
    path = root / piece.file
    write_whole(path, piece.content)
    width, height, frames, fps = probe(path)
    shared = {**piece.origin, "width": width, "height": height, "frames": frames, "fps": fps}
    return [
        Item(**shared, split=split, start=start, end=end) for split, (start, end) in piece.take.spans.items()
    ]


def probe(path: Path) -> tuple[int, int, int, float | None]:
    """Width, height, coded frames (counted without decoding) and frames a second of a clip.

    Raises:
        MediaError: not a clip.
    """
    try:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            frames = sum(packet.size > 0 for packet in container.demux(video))
            rate = video.average_rate or video.guessed_rate
            return video.width, video.height, frames, float(rate) if rate else None
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"{path}: not a clip ({error})") from error
