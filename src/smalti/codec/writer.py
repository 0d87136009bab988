"""Tokens ──► token file, all at once or as they come.

```
append(tokens) ──► pending latent frames ──► full chunk ──► entropy coder ──► spool
close()        ──► header with the index, then the spool ──► a file that appears whole or not at all
```
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from smalti.codec.coders import EntropyCoder, Tables, check_codes
from smalti.codec.container import write_container
from smalti.codec.header import MAX_FRAMES, VERSION, Chunk, Header, Stamp
from smalti.codec.latents import Latents, precision_of
from smalti.codec.sections import to_json
from smalti.codec.ticks import write_times
from smalti.errors import BudgetError, ConfigError
from smalti.tokens import Source, Tokens

SPOOL_BYTES = 1 << 26  # coded chunks wait in memory up to here, then on disk
PIECE_BYTES = 1 << 20


def write(path: str | os.PathLike[str], tokens: Tokens, stamp: Stamp, **options: Any) -> None:
    """Write the tokens of one source. `options` and errors are those of `TokenWriter`."""
    with TokenWriter(path, stamp, **options) as writer:
        writer.append(tokens)


class TokenWriter:
    """Writes tokens as they come; memory holds one chunk and up to 64 MB of coded bytes.

    ```python
    with TokenWriter("clip.smt", stamp, temporal=(1, 4)) as writer:
        for tokens in stream:
            writer.append(tokens)
    ```
    The file appears at the end of the block, whole; if the block raises there is none. Ids are stored
    where there are any, else values. Masks, and with a grid coordinates and mass, follow from the rest.

    Args:
        path: the file's final name; what stands there is replaced.
        stamp: the tokenizer that made the tokens.
        coder: entropy coder for ids; `Tables` unless the tokenizer brings a better one.
        chunk: latent frames that are coded together and read together.
        temporal: source frames of the first latent frame and of every other, as (1, 4) for a causal
            tokenizer that keeps the first frame and joins every four after it. Without it, or without a
            grid, one chunk holds all.
        time_base: seconds of a tick of the source's clock; found from the times when not given.
        precision: of continuous latents: float32, float16, bfloat16 or int8; their own when not given.
        audio: bytes of an audio file, kept as they are.
        extra: whatever JSON holds, kept as it is.

    Raises:
        ConfigError: tokens of several sources, without source, masked, or that do not follow those before;
            a path that cannot be written.
        FormatError: an id that its codebook does not hold.
        BudgetError: more frames than a file may hold, or a full disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stamp: Stamp,
        *,
        coder: EntropyCoder | None = None,
        chunk: int = 16,
        temporal: tuple[int, int] | None = None,
        time_base: Fraction | None = None,
        precision: str | None = None,
        audio: bytes | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if chunk < 1:
            raise ConfigError(f"a chunk holds at least one latent frame, not {chunk}")
        if temporal is not None and min(temporal) < 1:
            raise ConfigError(f"temporal {temporal}: every latent frame stands for at least one frame")
        self._path, self._stamp, self._coder, self._precision = path, stamp, coder, precision
        self._chunk, self._temporal, self._time_base = chunk, temporal, time_base
        self._extra = dict(extra or {})
        to_json(self._extra)  # refuses what no header can hold before hours are encoded
        self._arrays = {} if audio is None else {"audio": bytes(audio)}
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        self._kind: _Kind | None = None
        self._source: Source | None = None
        self._pending: list[Tensor] = []
        self._chunks: list[Chunk] = []
        self._latents = self._frames = 0
        self._times = array("d")

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self._spool.close()

    def append(self, tokens: Tokens) -> None:
        """Add the tokens of the latent frames that follow those before."""
        source, codes = _source(tokens), _codes(tokens)
        kind = _Kind(
            tuple(codes.shape[1:]), tokens.grid is not None, tokens.ids is None, source.times is not None
        )
        if self._kind is None:
            self._begin(kind, tokens)
        elif kind != self._kind or not kind.gridded:
            raise ConfigError(f"tokens of {kind} cannot follow tokens of {self._kind}")
        if not kind.continuous:
            check_codes(codes.numpy(), self._stamp.codebook_sizes, first_latent=self._latents)
        self._pending.append(codes)
        self._latents += codes.shape[0]
        self._frames += source.frames
        self._times.extend(source.times or ())
        self._source = dataclasses.replace(self._source or source, pad=source.pad)
        if self._temporal is not None:
            self._code_chunks(at_least=self._chunk)

    def close(self) -> None:
        """Code what is pending and write the file. The end of a `with` block does this."""
        if self._source is None or self._kind is None:
            raise ConfigError(f"{self._path}: no tokens to write: append some first")
        if self._frames > MAX_FRAMES:
            raise BudgetError(f"{self._path}: {self._frames} frames, a token file holds up to {MAX_FRAMES}")
        if self._frames > self._frames_of(self._latents):
            raise ConfigError(
                f"with temporal={self._temporal} {self._latents} latent frames stand for "
                f"{self._frames_of(self._latents)} frames, but the source has {self._frames}"
            )
        self._code_chunks(at_least=1)
        header = self._header(self._kind, self._source)
        sizes = [(str(i), sum(chunk.sizes)) for i, chunk in enumerate(self._chunks)]
        sizes += [(name, len(data)) for name, data in self._arrays.items()]
        write_container(self._path, header.metadata(), sizes, self._data())

    def _begin(self, kind: _Kind, tokens: Tokens) -> None:
        """The first tokens settle what all are."""
        channels = kind.shape[2]
        if kind.continuous:
            latents = Latents(self._precision or precision_of(tokens.values), channels)
            self._precision, self._coder_name, self._encode = latents.precision, latents.name, latents.encode
        else:
            if channels not in self._stamp.stages:
                raise ConfigError(
                    f"{channels} codes a token are no quality of {self._stamp.name}: "
                    f"its stages end after {', '.join(map(str, self._stamp.stages))} codes"
                )
            stages = self._stamp.stages[: self._stamp.stages.index(channels) + 1]
            coder = self._coder or Tables(self._stamp.codebook_sizes)
            self._precision, self._coder_name = None, coder.name
            self._encode = lambda codes: coder.encode(codes.numpy(), stages)
        if not kind.gridded:
            self._temporal = None
            for name, part in (("coords", tokens.coords), ("mass", tokens.mass)):
                if part is not None:
                    self._arrays[name] = part[0].detach().cpu().float().numpy().astype("<f4").tobytes()
        self._kind = kind

    def _code_chunks(self, at_least: int) -> None:
        """Code the pending latent frames, chunk by chunk, down to fewer than `at_least`."""
        if sum(map(len, self._pending)) < at_least:
            return
        codes = torch.cat(self._pending)
        size = len(codes) if self._temporal is None else self._chunk
        while len(codes) >= at_least:
            streams = self._encode(codes[:size])
            self._spool.writelines(streams)
            self._chunks.append(self._chunk_of(len(codes[:size]), streams))
            codes = codes[size:]
        self._pending = [codes.clone()]

    def _chunk_of(self, latents: int, streams: list[bytes]) -> Chunk:
        """The index entry of the chunk after the last; its frames are cut to the source's at the end."""
        latent = self._chunks[-1].latent + self._chunks[-1].latents if self._chunks else 0
        frame = self._frames_of(latent)
        return Chunk(
            latent=latent,
            latents=latents,
            frame=frame,
            frames=self._frames_of(latent + latents) - frame,
            sizes=tuple(map(len, streams)),
            checksums=tuple(map(zlib.crc32, streams)),
        )

    def _frames_of(self, latents: int) -> int:
        """Source frames that the first so many latent frames stand for, padding included."""
        if latents == 0:
            return 0
        if self._temporal is None:
            return self._frames
        first, every = self._temporal
        return first + every * (latents - 1)

    def _header(self, kind: _Kind, source: Source) -> Header:
        time_base, times = self._time_base, None
        if kind.timed:
            time_base, times, self._arrays["times"] = write_times(np.frombuffer(self._times), time_base)
        chunks = []
        for chunk in self._chunks:
            start = min(chunk.frame, self._frames)
            stop = min(chunk.frame + chunk.frames, self._frames)
            if chunk is self._chunks[-1]:
                stop = self._frames
            chunks.append(dataclasses.replace(chunk, frame=start, frames=stop - start))
        header = Header(
            version=VERSION,
            stamp=self._stamp,
            source=dataclasses.replace(source, frames=self._frames, times=None),
            shape=(self._latents, kind.shape[0], kind.shape[1]),
            gridded=kind.gridded,
            quality=len(self._chunks[0].sizes),
            coder=self._coder_name,
            precision=self._precision,
            dim=kind.shape[2] if kind.continuous else None,
            temporal=self._temporal,
            time_base=time_base,
            times=times,
            chunks=tuple(chunks),
            arrays={name: (len(data), zlib.crc32(data)) for name, data in self._arrays.items()},
            extra=self._extra,
        )
        if not header.filler_bytes:
            return header
        filler = self._arrays["filler"] = bytes(header.filler_bytes)
        return dataclasses.replace(
            header, arrays={**header.arrays, "filler": (len(filler), zlib.crc32(filler))}
        )

    def _data(self) -> Iterator[bytes]:
        self._spool.seek(0)
        yield from iter(lambda: self._spool.read(PIECE_BYTES), b"")
        yield from self._arrays.values()


@dataclass(frozen=True)
class _Kind:
    """What the tokens of one file have in common."""

    shape: tuple[int, ...]
    gridded: bool
    continuous: bool
    timed: bool

    def __str__(self) -> str:
        content = "values" if self.continuous else "codes"
        place = "on a grid" if self.gridded else "on no grid"
        times = "with times" if self.timed else "without times"
        return f"{' × '.join(map(str, self.shape))} {content} {place} {times}"


def _source(tokens: Tokens) -> Source:
    if tokens.shape[0] != 1:
        raise ConfigError(f"a token file holds one source, these tokens are a batch of {tokens.shape[0]}")
    if tokens.mask is not None and not tokens.mask.all():
        raise ConfigError("tokens that the mask rules out cannot be written: drop them first")
    if tokens.source is None or len(tokens) == 0:
        raise ConfigError("tokens without source, or no token: nothing could be decoded from the file")
    times = tokens.source.times
    if times is not None and len(times) != tokens.source.frames:
        raise ConfigError(f"the source has {tokens.source.frames} frames but {len(times)} times")
    return tokens.source


def _codes(tokens: Tokens) -> Shaped[Tensor, "t h w c"]:
    """Ids as int64, or values, on the tokens' grid."""
    codes = tokens.values if tokens.ids is None else tokens.ids.long()
    assert codes is not None  # Tokens refuses both missing
    return codes[0].detach().cpu().reshape(*(tokens.grid or (1, 1, len(tokens))), codes.shape[-1])
