"""Token file ──► header at once, tokens on demand.

```
open ──► header (sealed) ──► select(seconds) ──► chunks ──► CRC ──► entropy coder ──► Tokens
```
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smalti.codec.coders import GENERIC, EntropyCoder, check_codes
from smalti.codec.container import RESTORE, Front, read_front
from smalti.codec.header import Header, Stamp
from smalti.codec.info import describe
from smalti.codec.latents import Latents
from smalti.codec.parse import parse
from smalti.codec.select import Moment, Selection, Unit, select
from smalti.codec.ticks import read_times
from smalti.errors import BudgetError, ConfigError, FormatError, IntegrityError, SmaltiError
from smalti.tokens import Source, Tokens

BUDGET = 1 << 27  # codes or values that one read may give: sixteen 8K frames of sixteen codes at 8×8


class TokenFile:
    """A token file, opened lazily: reading touches only the chunks it needs.

    ```python
    with TokenFile.open("clip.smt") as file:
        file.check(stamp)
        tokens = file.read(12.0, 13.0, quality=2)
    ```
    Attributes:
        path: the file.
        header: everything but the tokens.
    """

    def __init__(self, path: Path, header: Header, front: Front) -> None:
        self.path, self.header, self._front = path, header, front
        try:
            self._arrays = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path}: {error}") from error

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TokenFile:
        """Read and verify the header; no tokens yet.

        Raises:
            FormatError: not a token file, truncated, or with a header that contradicts itself.
            IntegrityError: a byte of the header was changed.
            UnsupportedError: a newer major version of the format.
            BudgetError: more frames than a file may hold.
        """
        front = read_front(path)
        try:
            header = parse(front.metadata)
            _check_arrays(header, front)
        except SmaltiError as error:
            raise type(error)(f"{path}: {error}") from error
        return cls(Path(path), header, front)

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._arrays.__exit__(None, None, None)

    def check(self, stamp: Stamp, force: bool = False) -> None:
        """Refuse another tokenizer than the one that wrote the file.

        Raises:
            ConfigError: name, preset, weights or codebooks differ; the message names both. `force` passes.
        """
        if stamp != self.header.stamp and not force:
            raise ConfigError(
                f"{self.path} was written by {self.header.stamp}, not by {stamp}: "
                "its ids mean something else there. Use the tokenizer that wrote it, or force"
            )

    @property
    def metadata(self) -> dict[str, str]:
        """The header's strings as they stand in the file, without the seal."""
        return {name: value for name, value in self._front.metadata.items() if name != "seal"}

    def verify(self) -> None:
        """Read every byte and compare it with its checksum.

        Raises:
            IntegrityError: the first chunk or array that was changed.
        """
        for index in range(len(self.header.chunks)):
            self.streams(index, self.header.quality)
        for name in self.header.arrays:
            self.array(name)

    @cached_property
    def times(self) -> Float64[np.ndarray, "frames"] | None:
        """Seconds of every frame, if they were stored or the rate is known."""
        source = self.header.source
        if self.header.times is not None:
            layout = dict(self.header.times)
            return read_times(layout, self.array("times"), source.frames, self.header.time_base)
        return None if source.fps is None else np.arange(source.frames) / source.fps

    def audio(self) -> bytes | None:
        """The audio file that was kept beside the tokens, if there is one."""
        return self.array("audio") if "audio" in self.header.arrays else None

    def array(self, name: str) -> bytes:
        """An array that is not a chunk, verified.

        Raises:
            IntegrityError: it was changed.
            ConfigError: there is none of this name.
        """
        if name not in self.header.arrays:
            raise ConfigError(f"{self.path} has no array {name!r}")
        size, checksum = self.header.arrays[name]
        data = self._bytes(name, size)
        if zlib.crc32(data) != checksum:
            raise IntegrityError(f"{self.path}: array {name!r} was changed. {RESTORE}")
        return data

    def select(
        self, start: Moment | None = None, end: Moment | None = None, unit: Unit = "seconds"
    ) -> Selection:
        """Which chunks hold the frames shown in [start, end).

        Raises:
            ConfigError: no such frame, or seconds of a source whose times are not known.
        """
        timed = unit == "seconds" and not (start is None and end is None)
        try:
            return select(self.header, self.times if timed else None, start, end, unit)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from error

    def info(self) -> dict[str, Any]:
        """Sizes, rates, the tokenizer and the index, as JSON holds it."""
        return describe(self.path, self.header, self._front.file_bytes, self._seconds())

    def read(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        unit: Unit = "seconds",
        quality: int | None = None,
        coder: EntropyCoder | None = None,
        budget: int = BUDGET,
    ) -> Tokens:
        """Tokens of the chunks that [start, end) touches; of all when neither is given.

        `tokens.source` tells which source frames these are: `frames` of them from `first` on.

        Args:
            start, end: seconds or frames.
            unit: of start and end.
            quality: stages to read, 1 to `header.quality`; all when not given.
            coder: the tokenizer's entropy coder, where the file was not written by a generic one.
            budget: codes or values that may be allocated.

        Raises:
            IntegrityError: a chunk was changed since it was written.
            FormatError: a chunk does not decode, or holds an id that no codebook has.
            ConfigError: a range or quality that does not exist, or another coder than the file needs.
            BudgetError: more tokens than `budget` allows.
        """
        header = self.header
        quality = header.quality if quality is None else quality
        if not 1 <= quality <= header.quality:
            raise ConfigError(f"{self.path} holds quality 1 to {header.quality}, not {quality}")
        selection = self.select(start, end, unit)
        stages = header.stages[:quality]
        channels = header.dim or stages[-1]
        grid = (len(selection.latents), *header.shape[1:])
        if prod(grid) * channels > budget:
            raise BudgetError(
                f"{self.path}: {prod(grid)} tokens of {channels} are more than the budget of {budget}: "
                "read a shorter range or raise the budget"
            )
        decoder = self._coder(coder)
        parts = [self._decode(decoder, index, stages) for index in selection.chunks]
        codes = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(1, prod(grid), channels)
        return Tokens(
            **{"ids" if header.precision is None else "values": codes},
            **self._places(),
            grid=grid if header.gridded else None,
            source=self._source(selection),
        )

    def _coder(self, given: EntropyCoder | None) -> EntropyCoder | Latents:
        header = self.header
        if header.precision is not None:
            return Latents(header.precision, header.dim or 0)
        if given is not None and given.name == header.coder:
            return given
        if header.coder in GENERIC:
            return GENERIC[header.coder](header.stamp.codebook_sizes)
        raise ConfigError(
            f"{self.path} needs the entropy coder {header.coder!r} of {header.stamp}"
            + ("" if given is None else f", not {given.name!r}")
            + ": give the coder of the tokenizer that wrote it"
        )

    def _decode(
        self, coder: EntropyCoder | Latents, index: int, stages: tuple[int, ...]
    ) -> Shaped[Tensor, "t h w c"]:
        chunk = self.header.chunks[index]
        streams = self.streams(index, len(stages) or 1)
        shape = (chunk.latents, *self.header.shape[1:])
        try:
            if isinstance(coder, Latents):
                return coder.decode(streams, shape)
            ids = coder.decode(streams, shape, stages)
            check_codes(ids, self.header.stamp.codebook_sizes, chunk.latent)
        except FormatError as error:
            raise FormatError(f"{self.path}: chunk {index}: {error}") from error
        return torch.from_numpy(ids)

    def streams(self, index: int, quality: int) -> list[bytes]:
        """The byte strings of a chunk's first stages, verified."""
        chunk = self.header.chunks[index]
        data = memoryview(self._bytes(str(index), sum(chunk.sizes[:quality])))
        streams = []
        for stage, (size, checksum) in enumerate(zip(chunk.sizes[:quality], chunk.checksums, strict=False)):
            stream, data = bytes(data[:size]), data[size:]
            if zlib.crc32(stream) != checksum:
                raise IntegrityError(
                    f"{self.path}: stage {stage + 1} of chunk {index} was changed (source frames "
                    f"{chunk.frame} to {chunk.frame + chunk.frames - 1}). {RESTORE}"
                )
            streams.append(stream)
        return streams

    def _bytes(self, name: str, size: int) -> bytes:
        try:
            return self._arrays.get_slice(name)[:size].tobytes() if size else b""
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{self.path}: array {name!r}: {error}") from error

    def _places(self) -> dict[str, Tensor]:
        """Coordinates and mass of tokens that lie on no grid."""
        places, count = {}, prod(self.header.shape)
        for name, shape in (("coords", (1, count, 3)), ("mass", (1, count))):
            if not self.header.gridded and name in self.header.arrays:
                stored = np.frombuffer(self.array(name), "<f4").astype(np.float32)
                places[name] = torch.from_numpy(stored).reshape(shape)
        return places

    def _seconds(self) -> float | None:
        """From the first frame to the end of the last, which stays as long as they usually do."""
        if self.header.times is None:
            return self.header.source.fps and self.header.source.frames / self.header.source.fps
        assert self.times is not None  # the header has times
        usual = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0
        return float(self.times[-1] - self.times[0]) + usual

    def _source(self, selection: Selection) -> Source:
        source, frames = self.header.source, selection.frames
        times = None
        if self.header.times is not None and self.times is not None:
            times = tuple(self.times[frames.start : frames.stop].tolist())
        to_the_end = selection.chunks.stop == len(self.header.chunks)
        pad = source.pad if to_the_end else (0, *source.pad[1:])
        first = source.first + frames.start
        return dataclasses.replace(source, frames=len(frames), first=first, times=times, pad=pad)


def _check_arrays(header: Header, front: Front) -> None:
    """The arrays in the file are those that the header speaks of, with their sizes."""
    expected = {str(i): sum(chunk.sizes) for i, chunk in enumerate(header.chunks)}
    expected |= {name: size for name, (size, _) in header.arrays.items()}
    if dict(front.arrays) != expected:
        wrong = sorted(set(expected.items()) ^ set(front.arrays.items()))[0][0]
        raise FormatError(f"array {wrong!r} is not in the file as the header describes it")
