"""A token file of lower quality, cut out of one of higher quality without decoding anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from smalti.codec.container import write_container
from smalti.codec.header import to_json
from smalti.codec.reader import TokenFile
from smalti.errors import ConfigError


def trim(path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], quality: int) -> None:
    """Keep the first `quality` stages. Everything else stays, fields of newer minor versions too.

    Raises:
        ConfigError: a quality that the file does not hold.
        IntegrityError: a stage that is kept was changed since it was written.
    """
    with TokenFile.open(path_in) as file:
        header = file.header
        if not 1 <= quality <= header.quality:
            raise ConfigError(f"{path_in} holds quality 1 to {header.quality}, not {quality}")
        sizes = [(f"chunk.{i:06d}", sum(chunk.sizes[:quality])) for i, chunk in enumerate(header.chunks)]
        sizes += [(name, size) for name, (size, _) in header.arrays.items()]
        write_container(path_out, _trimmed(file.metadata, quality), sizes, _data(file, quality))


def _trimmed(metadata: dict[str, str], quality: int) -> dict[str, str]:
    tokens, chunks = json.loads(metadata["tokens"]), json.loads(metadata["chunks"])
    tokens["quality"] = quality
    for chunk in chunks:
        chunk["bytes"], chunk["crc"] = chunk["bytes"][:quality], chunk["crc"][:quality]
    return metadata | {"tokens": to_json(tokens), "chunks": to_json(chunks)}


def _data(file: TokenFile, quality: int) -> Iterator[bytes]:
    for index in range(len(file.header.chunks)):
        yield from file.streams(index, quality)
    for name in file.header.arrays:
        yield file.array(name)
