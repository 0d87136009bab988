"""Everything a token file says of itself, as JSON holds it."""

from __future__ import annotations

import dataclasses
import os
from math import prod
from typing import Any

from smalti.codec.header import Header


def describe(
    path: str | os.PathLike[str], header: Header, file_bytes: int, seconds: float | None
) -> dict[str, Any]:
    """Sizes, rates, the tokenizer and the index.

    Args:
        path: the file.
        header: its header.
        file_bytes: its size.
        seconds: length of the source, where it is known.

    Returns:
        `bits_per_pixel` counts every byte of the file but the audio's; `packed_bytes` is what the codes
        take with a fixed number of bits each, `coded_bytes` what they take in the file.
    """
    source, tokens = header.source, prod(header.shape)
    pixels = source.height * source.width * source.frames
    by_stage = [sum(chunk.sizes[stage] for chunk in header.chunks) for stage in range(header.quality)]
    audio_bytes = header.arrays.get("audio", (0, 0))[0]
    return {
        "path": os.fsdecode(path),
        "bytes": file_bytes,
        "format_version": "{}.{}".format(*header.version),
        "tokenizer": dataclasses.asdict(header.stamp),
        "source": {
            "height": source.height,
            "width": source.width,
            "frames": source.frames,
            "first": source.first,
            "fps": source.fps,
            "seconds": seconds,
            "variable_rate": header.times is not None,
            "time_base": None if header.time_base is None else str(header.time_base),
            "pad": source.pad,
        },
        "shape": header.shape,
        "grid": header.gridded,
        "tokens": tokens,
        "quality": header.quality,
        "qualities": max(len(header.stamp.stages), 1),
        "coder": header.coder,
        "precision": header.precision,
        "dim": header.dim,
        "temporal": header.temporal,
        "bits_per_pixel": 8 * (file_bytes - audio_bytes) / pixels,
        "bits_per_token": 8 * sum(by_stage) / tokens,
        "packed_bytes": (tokens * header.bits_a_token + 7) // 8,
        "coded_bytes": sum(by_stage),
        "bytes_per_stage": by_stage,
        "audio_bytes": audio_bytes,
        "chunks": [dataclasses.asdict(chunk) for chunk in header.chunks],
        "arrays": {name: size for name, (size, _) in header.arrays.items()},
        "extra": dict(header.extra),
    }
