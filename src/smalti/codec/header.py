"""What a token file says about its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from smalti.codec.bits import width
from smalti.codec.latents import DTYPES
from smalti.errors import ConfigError
from smalti.tokens import Source

NAME, VERSION = "smalti-tokens", (1, 0)
MAX_FRAMES = 1 << 24  # six days at 30 frames a second
MAX_CODEBOOK = 1 << 62


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

    def metadata(self) -> dict[str, str]:
        """The header as the strings of a safetensors file's metadata."""
        stamp, source = self.stamp, self.source
        sections = {
            "tokenizer": {
                "name": stamp.name,
                "preset": stamp.preset,
                "fingerprint": stamp.fingerprint,
                "codebook_sizes": stamp.codebook_sizes,
                "stages": stamp.stages,
            },
            "source": {
                "height": source.height,
                "width": source.width,
                "frames": source.frames,
                "first": source.first,
                "fps": source.fps,
                "pad": source.pad,
                "time_base": self.time_base and [self.time_base.numerator, self.time_base.denominator],
                "times": self.times,
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
                    "latent": chunk.latent,
                    "latents": chunk.latents,
                    "frame": chunk.frame,
                    "frames": chunk.frames,
                    "bytes": chunk.sizes,
                    "crc": chunk.checksums,
                }
                for chunk in self.chunks
            ],
            "arrays": {name: {"bytes": size, "crc": crc} for name, (size, crc) in self.arrays.items()},
            "extra": self.extra,
        }
        version = f"{NAME} {self.version[0]}.{self.version[1]}"
        return {"format": version} | {name: to_json(section) for name, section in sections.items()}


def to_json(section: Any) -> str:
    """One section of the metadata, without spaces.

    Raises:
        ConfigError: what JSON cannot hold.
    """
    try:
        return json.dumps(section, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the token file's header cannot hold {section!r}: {error}") from error
