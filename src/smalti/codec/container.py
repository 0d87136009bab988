"""The file itself: safetensors, with a header that is sealed byte for byte.

```
length [8 bytes] │ {"__metadata__":{"seal":"<crc><length>","format":"…","header":"…"},arrays…} │ data
```
The seal is the CRC-32 of every other byte of length and header, and the length once more; so a changed
byte anywhere in front of the data is found before anything is believed. Array data carry their own.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from smalti.codec.atomic import atomic_file
from smalti.codec.parse import check_version
from smalti.errors import BudgetError, FormatError, IntegrityError

PREFIX = b'{"__metadata__":{"seal":"'
MARKER = b"smalti-tokens"
SEAL = slice(8 + len(PREFIX), 8 + len(PREFIX) + 16)  # where the seal stands in the file
FRONT = 1 << 16  # bytes in which the marker stands, even if another program wrote the header anew
MAX_HEADER = 100_000_000  # as safetensors has it

RESTORE = "Restore the file from its origin"

FOREIGN = (
    (8, (b"{",), "a safetensors file, but not of tokens"),
    (
        0,
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle: never opened, it could run code",
    ),
    (0, (b"PK\x03\x04",), "a zip archive, perhaps of pickles: never opened"),
    (0, (b"7z\xbc\xaf",), "a 7z archive"),
    (0, (b"\x1f\x8b",), "compressed by gzip: decompress it first"),
    (4, (b"ftyp",), "a video: encode it first"),
    (0, (b"\x89PNG", b"\xff\xd8\xff"), "a picture: encode it first"),
)


@dataclass(frozen=True)
class Front:
    """What stands before the data: the metadata, and name → bytes of every array in order."""

    metadata: Mapping[str, str]
    arrays: Mapping[str, int]
    file_bytes: int


def write_container(
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    arrays: Sequence[tuple[str, int]],
    data: Iterable[bytes],
) -> None:
    """Write a file whole or not at all.

    Args:
        metadata: strings of the header.
        arrays: name and bytes of each array, in order.
        data: the arrays' bytes in the same order, in pieces of any size.

    Raises:
        BudgetError: more arrays than a header may name, or a full disk.
        ConfigError: a path that cannot be written.
    """
    front = _sealed(metadata, arrays)
    if len(front) > 8 + MAX_HEADER:
        raise BudgetError(f"{path}: a header of {len(front) - 8} bytes; {MAX_HEADER} are allowed")
    with atomic_file(path) as file:
        file.write(front)
        for piece in data:
            file.write(piece)


def _sealed(metadata: Mapping[str, str], arrays: Sequence[tuple[str, int]]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"seal": "0" * 16, **metadata}}
    position = 0
    for name, size in arrays:
        offsets = [position, position + size]
        table[name] = {"dtype": "U8", "shape": [size], "data_offsets": offsets}
        position += size
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    front = bytearray(len(header).to_bytes(8, "little") + header)
    front[SEAL.start + 8 : SEAL.stop] = b"%08x" % len(header)
    front[SEAL.start : SEAL.start + 8] = b"%08x" % _checksum(front)
    return bytes(front)


def _checksum(front: bytes | bytearray) -> int:
    return zlib.crc32(front[SEAL.start + 8 :], zlib.crc32(front[:8]))


def read_front(path: str | os.PathLike[str]) -> Front:
    """Everything before the data, verified. Reads no data.

    Raises:
        FormatError: no such file, not a token file, or one that ends early or late.
        IntegrityError: a byte of the header was changed.
        UnsupportedError: a newer major version of the format.
    """
    try:
        with open(path, "rb") as file:
            return _read_front(Path(path), file)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error


def _read_front(path: Path, file: BinaryIO) -> Front:
    size = os.fstat(file.fileno()).st_size
    start = file.read(FRONT)
    _identify(path, start, size)
    length = int.from_bytes(start[:8], "little")
    if start[SEAL][8:] != b"%08x" % length:
        raise IntegrityError(f"{path}: the header's length was changed (bytes 0 to 8). {RESTORE}")
    if length > MAX_HEADER:
        raise FormatError(f"{path}: a header of {length} bytes; {MAX_HEADER} are allowed")
    if 8 + length > size:
        raise _truncated(path, size, f"inside its header of {8 + length} bytes")
    file.seek(0)
    front = file.read(8 + length)
    if front[SEAL][:8] != b"%08x" % _checksum(front):
        raise IntegrityError(f"{path}: the header was changed (bytes 0 to {8 + length}). {RESTORE}")
    table = _load(path, front[8:])
    metadata = table.pop("__metadata__")
    check_version(metadata)
    arrays, end = _arrays(path, table)
    if size < 8 + length + end:
        raise _truncated(path, size, f"but should have {8 + length + end} bytes")
    if size > 8 + length + end:
        raise FormatError(f"{path}: {size - 8 - length - end} bytes follow the end at {8 + length + end}")
    return Front(metadata, arrays, size)


def _truncated(path: Path, size: int, where: str) -> FormatError:
    return FormatError(f"{path}: truncated: the file ends at byte {size}, {where}. {RESTORE}")


def _identify(path: Path, start: bytes, size: int) -> None:
    if not start:
        raise FormatError(f"{path}: the file is empty")
    if start[8:].startswith(PREFIX) and size >= SEAL.stop:
        return
    if MARKER in start:
        raise IntegrityError(f"{path}: the header was changed (bytes 8 to {SEAL.start}). {RESTORE}")
    if size > 8 and PREFIX.startswith(start[8 : SEAL.start]):
        raise _truncated(path, size, "inside its header")
    if size <= 8:
        raise _truncated(path, size, "before a header begins")
    for offset, magic, what in FOREIGN:
        if start[offset:].startswith(magic):
            raise FormatError(f"{path}: not a token file but {what}")
    raise FormatError(f"{path}: not a token file: it does not begin as safetensors files do")


def _load(path: Path, header: bytes) -> dict[str, Any]:
    try:
        table = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the header is not JSON: {error}") from error
    metadata = table["__metadata__"]
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise FormatError(f"{path}: the header's metadata must be strings")
    return table


def _arrays(path: Path, table: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Bytes of every array, in order, and where the last ends. They must be uint8 and leave no gap."""
    sizes, end = {}, 0
    for name, entry in table.items():
        try:
            size = entry["data_offsets"][1] - end
            plain = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        except (TypeError, KeyError, IndexError):
            plain, size = None, 0
        if entry != plain or type(size) is not int or size < 0:
            raise FormatError(f"{path}: array {name!r} must be uint8 and begin at byte {end} of the data")
        sizes[name], end = size, end + size
    return sizes, end
