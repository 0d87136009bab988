"""Files that appear whole or not at all: written beside their place, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from smalti.errors import ConfigError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once the block ends without an error or interrupt.

    Raises:
        ConfigError: a folder that does not exist, or a path that is a folder.
    """
    _check_parent(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; a file is to be written there")
    temporary = path.parent / f".smalti-{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path` once the block ends without an error or interrupt.

    Raises:
        ConfigError: a parent that does not exist, or something in the way that is not an empty folder.
    """
    _check_parent(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: exists and is not an empty folder: choose another or empty it")
    temporary = path.parent / f".smalti-{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist: create it first")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
