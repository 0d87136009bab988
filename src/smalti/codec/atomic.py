"""A file appears whole under its name, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from smalti.errors import BudgetError, ConfigError


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, renamed to `path` once it is complete and on the disk.

    Whatever goes wrong, what stood at `path` before stays as it was and nothing half-written is left.

    Raises:
        ConfigError: the folder does not exist or may not be written.
        BudgetError: the disk is full or failing.
    """
    path = Path(path)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}. Choose another path") from error
        except OSError as error:
            raise BudgetError(
                f"{path}: writing failed: {error.strerror or error}. Make room on the disk, then repeat"
            ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Without this a crash of the machine can undo the rename."""
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
