"""Qt resource files (`.rcc`): a tree of names over blocks of data, all numbers big-endian.

```
"qres" version  tree@ data@ names@      tree: name@ flags │ folder: children, first
                                              22 bytes    │ file:   locale, data@
names@: length, hash, UTF-16            data@: length, bytes (perhaps deflated)
```
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from smalti.errors import UnsupportedError

MAGIC = b"qres"
DEFLATED, FOLDER, ZSTANDARD = 1, 2, 4


class ResourceBox:
    """Files of a Qt resource file."""

    def __init__(self, content: bytes) -> None:
        if not content.startswith(MAGIC):
            raise ValueError(f"it does not begin with {MAGIC!r}")
        self.content = content
        version, self.tree, self.data, self.strings = struct.unpack_from(">4I", content, 4)
        self.node = 22 if version >= 2 else 14
        self.files = dict(self._walk(0, ""))

    def names(self) -> list[str]:
        """Every file's path in the tree."""
        return list(self.files)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        flags, offset = self.files[name]
        (length,) = struct.unpack_from(">I", self.content, offset)
        block = self._cut(offset + 4, length)
        if flags & ZSTANDARD:
            raise UnsupportedError(f"{name}: packed with Zstandard inside a Qt resource file")
        return zlib.decompress(block[4:]) if flags & DEFLATED else block

    def _walk(self, index: int, folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
        offset = self.tree + index * self.node
        name_offset, flags = struct.unpack_from(">IH", self.content, offset)
        path = folder + self._name(name_offset) if index else ""
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", self.content, offset + 6)
            if first <= index:
                raise ValueError(f"folder {path!r} holds itself")
            for child in range(first, first + count):
                yield from self._walk(child, f"{path}/" if path else "")
        else:
            (data_offset,) = struct.unpack_from(">I", self.content, offset + 10)
            yield path, (flags, self.data + data_offset)

    def _name(self, offset: int) -> str:
        (length,) = struct.unpack_from(">H", self.content, self.strings + offset)
        return self._cut(self.strings + offset + 6, 2 * length).decode("utf-16-be")

    def _cut(self, start: int, length: int) -> bytes:
        if start + length > len(self.content):
            raise ValueError(f"it ends at byte {len(self.content)}, {start + length} are promised")
        return self.content[start : start + length]
