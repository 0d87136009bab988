"""A token file of lower quality, cut out of one of higher quality without decoding anything."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterator
from typing import Any

from smalti.codec.container import write_container
from smalti.codec.header import Header, array_entries
from smalti.codec.reader import TokenFile
from smalti.codec.sections import pack_sections, unpack_sections
from smalti.errors import ConfigError


def trim(path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], quality: int) -> None:
    """Keep the first `quality` stages. Everything else stays, fields of newer minor versions too.

    Raises:
        ConfigError: a quality that the file does not hold.
        IntegrityError: a stage that is kept was changed since it was written.
    """
    with TokenFile.open(path_in) as file:
        if not 1 <= quality <= file.header.quality:
            raise ConfigError(f"{path_in} holds quality 1 to {file.header.quality}, not {quality}")
        header = _lowered(file.header, quality)
        sizes = [(str(i), sum(chunk.sizes)) for i, chunk in enumerate(header.chunks)]
        sizes += [(name, size) for name, (size, _) in header.arrays.items()]
        sections = _trimmed(unpack_sections(file.metadata), header)
        metadata = file.metadata | {"header": pack_sections(sections)}
        write_container(path_out, metadata, sizes, _data(file, header))


def _lowered(header: Header, quality: int) -> Header:
    chunks = tuple(
        dataclasses.replace(chunk, sizes=chunk.sizes[:quality], checksums=chunk.checksums[:quality])
        for chunk in header.chunks
    )
    arrays = {name: entry for name, entry in header.arrays.items() if name != "filler"}
    header = dataclasses.replace(header, quality=quality, chunks=chunks, arrays=arrays)
    if missing := header.filler_bytes:
        arrays["filler"] = (missing, zlib.crc32(bytes(missing)))
    return header


def _trimmed(sections: dict[str, Any], header: Header) -> dict[str, Any]:
    """The sections of the lower quality, with every field that this version does not know."""
    sections["tokens"]["quality"] = header.quality
    for entry, chunk in zip(sections["chunks"], header.chunks, strict=True):
        entry["bytes"], entry["crc"] = list(chunk.sizes), entry["crc"][: 8 * header.quality]
    known, kept = array_entries(header.arrays), sections.pop("arrays", {})
    arrays = {name: kept.get(name, {}) | entry for name, entry in known.items()}
    extra = sections.pop("extra", {})
    return sections | ({"arrays": arrays} if arrays else {}) | ({"extra": extra} if extra else {})


def _data(file: TokenFile, header: Header) -> Iterator[bytes]:
    for index in range(len(header.chunks)):
        yield from file.streams(index, header.quality)
    for name, (size, _) in header.arrays.items():
        yield bytes(size) if name == "filler" else file.array(name)
