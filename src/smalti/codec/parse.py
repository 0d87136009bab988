"""Metadata of a token file ──► `Header`, checked field by field before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from math import prod
from typing import Any

from smalti.codec.fields import MAX_WHOLE, Fields
from smalti.codec.header import DEFAULTS, MAX_CODEBOOK, MAX_FRAMES, NAME, VERSION, Chunk, Header, Stamp
from smalti.codec.latents import DTYPES
from smalti.codec.sections import unpack_sections
from smalti.codec.ticks import times_bytes
from smalti.errors import BudgetError, ConfigError, FormatError, UnsupportedError
from smalti.tokens import Source

MAX_SIDE = 1 << 31


def check_version(metadata: Mapping[str, str]) -> tuple[int, int]:
    """Major and minor version of a file.

    Raises:
        UnsupportedError: a newer major version.
        FormatError: no version.
    """
    name, _, version = metadata.get("format", "").partition(" ")
    major, _, minor = version.partition(".")
    if name != NAME or not (major.isdecimal() and minor.isdecimal() and len(version) < 20):
        raise FormatError(
            f"header key 'format' must read '{NAME} MAJOR.MINOR', not {metadata.get('format')!r}"
        )
    if int(major) > VERSION[0]:
        raise UnsupportedError(
            f"the file has format version {version}, this Smalti reads up to {VERSION[0]}.x: "
            f"install a release that reads version {major}"
        )
    return int(major), int(minor)


def parse(metadata: Mapping[str, str]) -> Header:
    """The header in a file's metadata. Unknown fields are ignored.

    Raises:
        UnsupportedError: a newer major version of the format.
        FormatError: a field is missing, of a wrong type, or contradicts another.
        BudgetError: more frames than a file may hold.
    """
    version = check_version(metadata)
    sections = {"arrays": {}, "extra": {}, **unpack_sections(metadata)}
    for name in (*DEFAULTS, "chunks"):
        if name not in sections:
            raise FormatError(f"header key {name!r} is missing")
    tokenizer, source_fields, tokens = (
        Fields(name, sections[name], defaults) for name, defaults in DEFAULTS.items()
    )
    try:
        stamp = Stamp(
            tokenizer.text("name"),
            tokenizer.text("preset"),
            tokenizer.text("fingerprint"),
            tokenizer.wholes("codebook_sizes", 1, MAX_CODEBOOK),
            tokenizer.wholes("stages"),
        )
    except ConfigError as error:
        raise FormatError(f"header key 'tokenizer': {error}") from error
    time_base = source_fields.wholes("time_base", 1, count=2) if source_fields["time_base"] else None
    precision = tokens.text("precision") if tokens["precision"] is not None else None
    times = _times(source_fields["times"])
    header = Header(
        version=version,
        stamp=stamp,
        source=_source(source_fields, timed=times is not None),
        shape=_three(tokens.wholes("shape", 1, MAX_SIDE, count=3)),
        gridded=tokens["grid"] is True,
        quality=tokens.whole("quality", 1, len(stamp.stages) if precision is None else 1),
        coder=tokens.text("coder"),
        precision=precision,
        dim=tokens.whole("dim", 1, MAX_SIDE) if precision is not None else None,
        temporal=_two(tokens.wholes("temporal", 1, MAX_FRAMES, count=2)) if tokens["temporal"] else None,
        time_base=Fraction(*time_base) if time_base else None,
        times=times,
        chunks=_chunks(sections["chunks"]),
        arrays={
            name: _array(Fields(f"arrays.{name}", value))
            for name, value in Fields("arrays", sections["arrays"]).values.items()
        },
        extra=Fields("extra", sections["extra"]).values,
    )
    _check_agreement(header)
    return header


def _source(fields: Fields, timed: bool) -> Source:
    frames, fps = fields.whole("frames", 1), fields["fps"]
    if frames > MAX_FRAMES:
        raise BudgetError(f"the file claims {frames} frames, a token file holds up to {MAX_FRAMES}")
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise FormatError(f"header key 'source.fps' must be a positive number, not {fps!r}")
    return Source(
        height=fields.whole("height", 1, MAX_SIDE),
        width=fields.whole("width", 1, MAX_SIDE),
        frames=frames,
        first=fields.whole("first"),
        fps=None if fps is None else float(fps),
        pad=_three(fields.wholes("pad", 0, MAX_SIDE, count=3)),
    )


def _times(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    fields = Fields("source.times", value)
    kind = fields.text("kind")
    if kind == "float64":
        return {"kind": kind}
    if kind != "ticks":
        raise FormatError(f"header key 'source.times.kind' must be 'ticks' or 'float64', not {kind!r}")
    return {
        "kind": kind,
        "first": fields.whole("first", -MAX_WHOLE),
        "step": fields.whole("step", -2 * MAX_WHOLE, 2 * MAX_WHOLE),
        "bits": fields.whole("bits", 0, 55),
    }


def _chunks(entries: Any) -> tuple[Chunk, ...]:
    """The index: each chunk begins where the one before ended."""
    if not isinstance(entries, list):
        raise FormatError("header key 'chunks' must be a list")
    chunks: list[Chunk] = []
    latent = frame = 0
    for index, entry in enumerate(entries):
        fields = Fields(f"chunks[{index}]", entry)
        latents, frames = fields.whole("latents", 1), fields.whole("frames")
        sizes, checksums = fields.wholes("bytes"), fields.checksums("crc")
        chunks.append(Chunk(latent, latents, frame, frames, sizes, checksums))
        latent, frame = latent + latents, frame + frames
    return tuple(chunks)


def _array(fields: Fields) -> tuple[int, int]:
    size, checksums = fields.whole("bytes"), fields.checksums("crc")
    if len(checksums) != 1:
        raise FormatError(f"header key '{fields.where}.crc' must hold one CRC-32")
    return size, checksums[0]


def _check_agreement(header: Header) -> None:
    """The index covers every latent and source frame once, and the arrays are as large as they must be."""
    for index, chunk in enumerate(header.chunks):
        if not len(chunk.sizes) == len(chunk.checksums) == header.quality:
            raise FormatError(f"chunk {index} must list bytes and crc of {header.quality} stages")
    latent = sum(chunk.latents for chunk in header.chunks)
    frame = sum(chunk.frames for chunk in header.chunks)
    if (latent, frame) != (header.shape[0], header.source.frames):
        raise FormatError(
            f"the chunks hold {latent} latent frames and {frame} source frames, "
            f"the header claims {header.shape[0]} and {header.source.frames}"
        )
    if header.precision is not None and header.precision not in DTYPES:
        raise FormatError(
            f"header key 'tokens.precision' {header.precision!r} is none of {', '.join(DTYPES)}"
        )
    if header.precision is None and not header.stamp.codebook_sizes:
        raise FormatError("header names neither codebooks nor the precision of continuous latents")
    expected = {"times": times_bytes(dict(header.times), header.source.frames)} if header.times else {}
    if not header.gridded:
        expected |= {"coords": 12 * prod(header.shape), "mass": 4 * prod(header.shape)}
    for name, size in expected.items():
        found = header.arrays.get(name, (0, 0))[0]
        if found != size and (name == "times" or name in header.arrays):
            raise FormatError(f"array {name!r} must take {size} bytes, the header claims {found}")
    if header.filler_bytes:
        raise FormatError(
            f"{prod(header.shape) * header.stages[-1]} codes in a file this small cannot be honest: "
            f"{header.filler_bytes} bytes are missing"
        )


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return numbers[0], numbers[1]


def _three(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    return numbers[0], numbers[1], numbers[2]
