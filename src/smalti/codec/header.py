"""What a token file says about its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

from smalti.codec.bits import width
from smalti.codec.fields import checksum_text
from smalti.codec.latents import DTYPES
from smalti.codec.sections import pack_sections
from smalti.errors import ConfigError
from smalti.tokens import Source

NAME, VERSION = "smalti-tokens", (1, 0)
MAX_FRAMES = 1 << 24  # six days at 30 frames a second
MAX_CODEBOOK = 1 << 62
FREE_CODES = 1 << 16  # that any file may hold, whatever its size
DENSEST = 1 << 10  # codes a byte beyond them; the blackest clip takes a byte for fewer than a hundred
DEFAULTS: dict[str, dict[str, Any]] = {  # of fields that the header leaves out
    "tokenizer": {"codebook_sizes": [], "stages": []},
    "source": {"frames": 1, "first": 0, "fps": None, "time_base": None, "times": None, "pad": [0, 0, 0]},
    "tokens": {"grid": True, "precision": None, "dim": None, "temporal": None},
}


@dataclass(frozen=True)
class Stamp:
    """Which tokenizer wrote the ids.

    Attributes:
        name, preset: as in `smalti.create(name, preset)`.
        fingerprint: of its weights, from `Tokenizer.fingerprint()`.
        codebook_sizes: of every code of a token; empty when continuous.
        stages: codes a token at every quality.
    """

    name: str
    preset: str
    fingerprint: str
    codebook_sizes: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip((0, *self.stages), self.stages, strict=False))
        if self.codebook_sizes and not (
            self.stages and rising and self.stages[-1] == len(self.codebook_sizes)
        ):
            raise ConfigError(
                f"stages {self.stages} must rise to the number of codebooks, {len(self.codebook_sizes)}"
            )
        for code, size in enumerate(self.codebook_sizes):
            if not 1 <= size <= MAX_CODEBOOK:
                raise ConfigError(f"codebook {code} has size {size}: choose 1 to 2^62")

    def __str__(self) -> str:
        return f"{self.name} {self.preset} with weights {self.fingerprint}"


@dataclass(frozen=True)
class Chunk:
    """A run of latent frames that decodes alone.

    Attributes:
        latent, latents: its first latent frame and how many it holds.
        frame, frames: its first source frame and how many it holds.
        sizes: bytes of every stage.
        checksums: CRC-32 of every stage.
    """

    latent: int
    latents: int
    frame: int
    frames: int
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Everything of a token file but the tokens.

    Attributes:
        version: major and minor number of the format.
        stamp: the tokenizer.
        source: what was encoded; `times` are left out and come from `TokenFile.times`.
        shape: latent frames, rows and columns; (1, 1, n) when the tokens lie on no grid.
        gridded: the tokens lie on a grid.
        quality: stages that the file holds.
        coder: name of the entropy coder.
        precision, dim: of continuous latents; None for ids.
        temporal: source frames of the first latent frame and of every other; None: one chunk holds all.
        time_base: seconds of a tick, where the source counts in ticks.
        times: how the times of frames are stored; None when the rate is steady.
        chunks: the index.
        arrays: bytes and CRC-32 of every array that is not a chunk, such as `audio` and `times`.
        extra: what the writer wished to keep.
    """

    version: tuple[int, int]
    stamp: Stamp
    source: Source
    shape: tuple[int, int, int]
    gridded: bool
    quality: int
    coder: str
    chunks: tuple[Chunk, ...]
    precision: str | None = None
    dim: int | None = None
    temporal: tuple[int, int] | None = None
    time_base: Fraction | None = None
    times: Mapping[str, Any] | None = None
    arrays: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[int, ...]:
        """Codes a token at every quality that the file holds; empty for continuous latents."""
        return self.stamp.stages[: self.quality] if self.precision is None else ()

    @property
    def bits_a_token(self) -> int:
        """Bits of one token without entropy coding."""
        if self.precision is None:
            return sum(width(size) for size in self.stamp.codebook_sizes[: self.stages[-1]])
        return 8 * DTYPES[self.precision].itemsize * (self.dim or 0)

    @property
    def filler_bytes(self) -> int:
        """Bytes that the file lacks to hold so many codes; see `missing_bytes`."""
        codes = prod(self.shape) * self.stages[-1] if self.stages else 0
        chunks = sum(sum(chunk.sizes) for chunk in self.chunks)
        return missing_bytes(codes, chunks + sum(size for size, _ in self.arrays.values()))

    def metadata(self) -> dict[str, str]:
        """The header as the strings of a safetensors file's metadata."""
        version = f"{NAME} {self.version[0]}.{self.version[1]}"
        return {"format": version, "header": pack_sections(self._sections())}

    def _sections(self) -> dict[str, Any]:
        stamp, source = self.stamp, self.source
        sections = {
            "tokenizer": {
                "name": stamp.name,
                "preset": stamp.preset,
                "fingerprint": stamp.fingerprint,
                "codebook_sizes": list(stamp.codebook_sizes),
                "stages": list(stamp.stages),
            },
            "source": {
                "height": source.height,
                "width": source.width,
                "frames": source.frames,
                "first": source.first,
                "fps": source.fps,
                "time_base": self.time_base and [self.time_base.numerator, self.time_base.denominator],
                "times": self.times,
                "pad": list(source.pad),
            },
            "tokens": {
                "shape": self.shape,
                "grid": self.gridded,
                "quality": self.quality,
                "coder": self.coder,
                "precision": self.precision,
                "dim": self.dim,
                "temporal": self.temporal,
            },
            "chunks": [
                {
                    "latents": chunk.latents,
                    "frames": chunk.frames,
                    "bytes": chunk.sizes,
                    "crc": checksum_text(*chunk.checksums),
                }
                for chunk in self.chunks
            ],
            "arrays": array_entries(self.arrays),
            "extra": self.extra,
        }
        for name, defaults in DEFAULTS.items():
            told = {k: v for k, v in sections[name].items() if k not in defaults or v != defaults[k]}
            sections[name] = told
        return {name: section for name, section in sections.items() if section}


def array_entries(arrays: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """What the header says of the arrays that are not chunks, from their bytes and CRC-32."""
    return {name: {"bytes": size, "crc": checksum_text(crc)} for name, (size, crc) in arrays.items()}


def missing_bytes(codes: int, held: int) -> int:
    """Bytes that arrays of `held` bytes lack to hold so many codes.

    A constant plane costs next to nothing, so without a bound a file of a few bytes could claim hours of
    decoding. Files of pictures and clips never come near it; where one would, `filler` makes up for it.
    """
    return max(0, -(-(codes - FREE_CODES) // DENSEST) - held)
