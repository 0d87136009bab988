"""The pictures or clips of an evaluation: found, told apart by content, named by one digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from smalti import media
from smalti.errors import MediaError

DEFAULT_FPS = 25.0

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Sample:
    """One picture (t = 1) or clip.

    Attributes:
        name: of its file.
        pixels: RGB in [0, 1].
        fps: frames a second; 25 where the file does not say.
    """

    name: str
    pixels: Float[Tensor, "1 3 t h w"]
    fps: float


@dataclass(frozen=True)
class Dataset:
    """Files in order of name; pictures or clips, not both.

    Attributes:
        paths: the files.
        kind: what they hold.
        max_frames: frames that are read of each clip, from its first; none: all.
    """

    paths: tuple[Path, ...]
    kind: Literal["picture", "clip"]
    max_frames: int | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files' contents, in order, and over how much of them is read."""
        total = hashlib.sha256(f"frames {self.max_frames}".encode())
        for path in self.paths:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        """The samples, one in memory at a time.

        Raises:
            MediaError: a file that cannot be read.
        """
        for path in self.paths:
            yield self._read(path)

    def _read(self, path: Path) -> Sample:
        if self.max_frames is None:
            whole = media.read(path, progress=False)
            return Sample(path.name, whole.pixels, whole.fps or whole.info.fps or DEFAULT_FPS)
        with media.open_clip(path, on_truncated="keep") as clip:
            chunk = next(clip.chunks(self.max_frames), None)
            if chunk is None:
                raise clip.fault or MediaError(f"{path}: holds no frame", decoded=0)
            return Sample(path.name, chunk.pixels, clip.info.fps or DEFAULT_FPS)


def dataset(data: StrPath | Sequence[StrPath], max_frames: int | None = None) -> Dataset:
    """The pictures or clips among files and folders.

    Args:
        data: files, folders (their files are taken, those of folders in them too), or both.
        max_frames: frames to read of each clip, from its first; none: all.

    Raises:
        MediaError: nothing there, a file that cannot be read, or pictures and clips together.
    """
    given = [data] if isinstance(data, str | os.PathLike) else list(data)
    paths = sorted({path for one in given for path in _files(Path(one))}, key=lambda path: (path.name, path))
    if not paths:
        raise MediaError(f"no picture or clip in {', '.join(map(str, given)) or 'an empty list'}")
    kinds = {path: "picture" if media.probe(path).kind == "image" else "clip" for path in paths}
    pictures = [path for path in paths if kinds[path] == "picture"]
    clips = [path for path in paths if kinds[path] == "clip"]
    if pictures and clips:
        raise MediaError(
            f"pictures ({pictures[0]}) and clips ({clips[0]}) are evaluated apart: give one kind at a time"
        )
    return Dataset(tuple(paths), "picture" if pictures else "clip", None if pictures else max_frames)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return list(media.sources(path))
    return [path]
