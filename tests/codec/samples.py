"""Small token files for the tests, and ways to damage them."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.codec import Stamp, write
from smalti.codec.container import read_front, write_container
from smalti.codec.sections import pack_sections, unpack_sections
from smalti.tokens import Source, Tokens

SIZES = (64, 64, 5, 1000)
STAMP = Stamp("mosaic", "small", "0123456789abcdef", SIZES, (1, 2, 4))
TEMPORAL = (1, 4)


def tokens(latents: int = 6, rows: int = 3, columns: int = 2, seed: int = 0, **source) -> Tokens:
    """Random ids; codes repeat often enough for tables to pay in larger grids."""
    generator = torch.Generator().manual_seed(seed)
    count = latents * rows * columns
    ids = torch.stack([torch.randint(0, s, (count,), generator=generator) // 3 for s in SIZES], -1)
    frames = 1 + 4 * (latents - 1)
    source = {"height": 8 * rows, "width": 8 * columns, "frames": frames, "fps": 25.0} | source
    return Tokens(ids=ids[None], grid=(latents, rows, columns), source=Source(**source))


def small_file(path: Path, **options) -> Path:
    """A file with three chunks, times, audio and extra metadata."""
    times = tuple((i * 1001 + 30 * (i % 3)) / 30000 for i in range(21))
    options = {"chunk": 2, "temporal": TEMPORAL, "audio": b"RIFF....", "extra": {"Title": "é"}} | options
    write(path, tokens(fps=None, times=times), STAMP, **options)
    return path


def forge(path: Path, **sections) -> Path:
    """Change fields of the header's sections and seal it again, as a hostile writer would.

    A text replaces a string of the metadata, a function a section, and fields are put into one.
    """
    front = read_front(path)
    raw = path.read_bytes()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    metadata = {key: value for key, value in front.metadata.items() if key != "seal"}
    for name, change in sections.items():
        if isinstance(change, str):
            metadata[name] = change
            continue
        unpacked = unpack_sections(metadata)
        section = unpacked.get(name)
        unpacked[name] = change(section) if callable(change) else (section or {}) | change
        metadata["header"] = pack_sections(unpacked)
    write_container(path, metadata, list(front.arrays.items()), [data])
    return path
