"""Files, folders and patterns → a list of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from smalti.errors import MediaError

PICTURES = frozenset("png apng jpg jpeg jpe webp avif tif tiff gif bmp ppm pgm pnm jp2 ico".split())  # noqa: SIM905
CLIPS = frozenset(
    "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts wmv flv 3gp ogv y4m vob mxf h264 hevc ivf".split()  # noqa: SIM905
)


def sources(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The pictures and clips that some files, folders and patterns name, each once.

    A file is taken as it is; a folder gives the files below it whose suffix is known, sorted by name; a
    pattern (`*`, `?`, `[…]`, `**`) gives its sorted matches, folders among them opened.

    Raises:
        MediaError: a name that does not exist, or a pattern or folder without a picture or clip.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    found: dict[Path, None] = {}
    for item in inputs:
        for path in _expand(Path(item)):
            found.setdefault(path)
    return list(found)


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _known(file))
        if not files:
            raise MediaError(f"{path}: the folder holds no picture or clip")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        files = [file for match in matches for file in (_expand(match) if match.is_dir() else [match])]
        if not files:
            raise MediaError(f"{path}: the pattern matches no file")
        return files
    raise MediaError(f"{path}: no such file")


def _known(file: Path) -> bool:
    return file.suffix.lower().removeprefix(".") in PICTURES | CLIPS and file.is_file()
