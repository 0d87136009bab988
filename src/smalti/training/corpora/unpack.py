"""Look inside packages of every kind, and inside what lies in them.

```
name.deb   ar ── data.tar.xz|gz|zst ──► tar ┐
name.tar.gz, name.tgz ────────────────► tar ┤
name.whl, name.zip, name.sh3f ────────► zip ├─► Box: names(), read(name)
name.rcc   Qt resources ──────────────► tree┤
name.mp4.gz ──────────────────────────► one ┘
```

A box in a box is named with `!/`: `media/examples.zip!/resources/film.mp4`.
Nothing is ever written under the name that a package gives.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from smalti.errors import IntegrityError, UnsupportedError
from smalti.training.corpora.qt import ResourceBox

INSIDE = "!/"
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
KINDS = (".deb", ".tar.gz", ".tgz", ".whl", ".zip", ".sh3f", ".rcc", ".gz")
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@runtime_checkable
class Box(Protocol):
    """Files by name."""

    def names(self) -> list[str]:
        """Every file's name, in the order of the archive."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        ...


class TarBox:
    """Regular files of an uncompressed tar; links and devices are passed over."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            self.members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}

    def names(self) -> list[str]:
        """Every regular file's name."""
        return list(self.members)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        member = self.members[name]
        return self.content[member.offset_data : member.offset_data + member.size]


class ZipBox:
    """Files of a zip archive: wheels, furniture catalogues, plain zips."""

    def __init__(self, content: bytes) -> None:
        self.zip = zipfile.ZipFile(io.BytesIO(content))

    def names(self) -> list[str]:
        """Every file's name."""
        return [entry.filename for entry in self.zip.infolist() if not entry.is_dir()]

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return self.zip.read(name)


class GzipBox:
    """One compressed file, named as the archive without `.gz`."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = PurePosixPath(name).name.removesuffix(".gz")

    def names(self) -> list[str]:
        """The one name."""
        return [self.name]

    def read(self, name: str) -> bytes:
        """The bytes of the one file."""
        return gzip.decompress(self.content)


class Package:
    """A package file and every box in it, each opened once and held in memory.

    Raises:
        UnsupportedError: of an unknown kind, or packed in a way that this machine cannot open.
        IntegrityError: damaged, or a member's name leads out of its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boxes: dict[str, Box] = {}

    def find(self, pattern: str) -> list[str]:
        """Paths that fit a pattern (`*` also spans folders), boxes in boxes included."""
        paths = [""]
        for part in pattern.split(INSIDE):
            paths = [
                f"{outer}{INSIDE}{name}" if outer else name
                for outer in paths
                for name in self._box(outer).names()
                if fnmatch.fnmatchcase(name, part)
            ]
        return paths

    def read(self, path: str) -> bytes:
        """The bytes of one file, by a path that `find` returned."""
        outer, _, name = path.rpartition(INSIDE)
        with self._blaming(path):
            return self._box(outer).read(name)

    def _box(self, outer: str) -> Box:
        if outer not in self.boxes:
            content = self.read(outer) if outer else self.path.read_bytes()
            with self._blaming(outer or "the package"):
                box = open_box(outer or self.path.name, content)
            refuse_escapes(self.path, box.names())
            self.boxes[outer] = box
        return self.boxes[outer]

    @contextmanager
    def _blaming(self, what: str) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            raise IntegrityError(
                f"{self.path}: {what} is damaged ({error}): remove it and run again"
            ) from error


def open_box(name: str, content: bytes) -> Box:
    """The box for a file, by the end of its name."""
    kind = name.lower()
    if kind.endswith((".whl", ".zip", ".sh3f")):
        return ZipBox(content)
    if kind.endswith(".deb"):
        return TarBox(debian_data(content))
    if kind.endswith((".tar.gz", ".tgz")):
        return TarBox(gzip.decompress(content))
    if kind.endswith(".rcc"):
        return ResourceBox(content)
    if kind.endswith(".gz"):
        return GzipBox(content, name)
    raise UnsupportedError(f"{name}: unknown kind of package; known: {' '.join(KINDS)}")


def debian_data(package: bytes) -> bytes:
    """The tar of a Debian package's files."""
    if not package.startswith(AR_MAGIC):
        raise ValueError(f"it does not begin with {AR_MAGIC!r}")
    at = len(AR_MAGIC)
    while header := package[at : at + AR_HEADER]:
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        at += AR_HEADER
        if name.startswith("data.tar"):
            return expanded(name, package[at : at + size])
        at += size + size % 2
    raise ValueError("there is no data.tar in it")


def expanded(name: str, content: bytes) -> bytes:
    """A compressed tar, expanded."""
    match PurePosixPath(name).suffix:
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".zst":
            return zstandard_expanded(content)
        case ".tar":
            return content
    raise UnsupportedError(f"{name}: packed in an unknown way; known: .xz .gz .zst")


def zstandard_expanded(content: bytes) -> bytes:
    """Zstandard is not in every supported Python: the command of that name does it."""
    command = shutil.which("zstd")
    if command is None:
        raise UnsupportedError("the package is packed with Zstandard: install the `zstd` command")
    run = subprocess.run([command, "-dc"], input=content, capture_output=True)
    if run.returncode:
        raise ValueError(run.stderr.decode(errors="replace").strip())
    return run.stdout


def refuse_escapes(package: Path, names: list[str]) -> None:
    """Raise when a name leads out of the folder it would be unpacked to."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise IntegrityError(f"{package}: member {name!r} leads out of its folder: do not trust it")
