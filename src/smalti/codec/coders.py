"""Entropy coders: ids ⇄ one byte string a stage.

```
ids [t h w q] ──► stage 1: codes 0 … stages[0]-1         ──► bytes
              ──► stage 2: codes stages[0] … stages[1]-1 ──► bytes      a prefix of stages decodes alone
              ──► …
```
`Packed` writes every code with a fixed number of bits. `Tables` counts how often each code occurs and
writes the counts and a range-coded stream, wherever that is smaller. `docs/token-file.md` specifies both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol, runtime_checkable

import constriction
import numpy as np
from jaxtyping import Int64, UInt8

from smalti.codec.bits import pack, packed_bytes, unpack, width
from smalti.errors import FormatError

PRECISION = 24  # bits of a probability in constriction's range coder
LARGEST_TABLE = 1 << 16  # codebooks above are packed
PACKED, TABLE = 0, 1


@runtime_checkable
class EntropyCoder(Protocol):
    """Writes ids stage by stage. Stage s may use the stages before it, never those after.

    A tokenizer offers its own by a method `entropy_coder()`. Decoding must not depend on the machine:
    probabilities are integers, computed in integer arithmetic or stored in the stream.
    """

    @property
    def name(self) -> str:
        """What the token file's header calls this coder; another format is another name."""
        ...

    def encode(self, ids: Int64[np.ndarray, "t h w q"], stages: tuple[int, ...]) -> list[bytes]:
        """One byte string a stage. `stages` holds the codes a token after each; the last is q."""
        ...

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], stages: tuple[int, ...]
    ) -> Int64[np.ndarray, "t h w q"]:
        """The ids, from one byte string for each of `stages`.

        Raises:
            FormatError: byte strings that this coder did not write.
        """
        ...


def stage_codes(stages: tuple[int, ...]) -> list[range]:
    """Which of a token's codes each stage holds."""
    return [range(first, last) for first, last in zip((0, *stages), stages, strict=False)]


def check_codes(
    ids: Int64[np.ndarray, "t h w q"], codebook_sizes: tuple[int, ...], first_latent: int = 0
) -> None:
    """Refuse ids that no codebook holds, naming the first.

    Raises:
        FormatError: an id out of range.
    """
    sizes = np.array(codebook_sizes[: ids.shape[-1]], np.int64)
    bad = (ids < 0) | (ids >= sizes)
    if bad.any():
        t, h, w, q = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise FormatError(
            f"id {ids[t, h, w, q]} at [t, h, w, q] = {[first_latent + t, h, w, q]} "
            f"is outside 0..{sizes[q] - 1}"
        )


@dataclass(frozen=True)
class Packed:
    """Every code in the bits that its codebook needs; no model, nothing learned."""

    codebook_sizes: tuple[int, ...]
    name: str = field(default="packed", init=False)

    def encode(self, ids: Int64[np.ndarray, "t h w q"], stages: tuple[int, ...]) -> list[bytes]:
        """See `EntropyCoder.encode`."""
        return [
            b"".join(pack(ids[..., code].ravel(), width(self.codebook_sizes[code])) for code in codes)
            for codes in stage_codes(stages)
        ]

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], stages: tuple[int, ...]
    ) -> Int64[np.ndarray, "t h w q"]:
        """See `EntropyCoder.decode`."""
        return _join(self._planes(streams, prod(shape), stages), shape, stages[-1])

    def _planes(
        self, streams: Sequence[bytes], count: int, stages: tuple[int, ...]
    ) -> Iterator[Int64[np.ndarray, "n"]]:
        for stream, codes in zip(streams, stage_codes(stages), strict=True):
            reader = _Reader(stream)
            for code in codes:
                bits = width(self.codebook_sizes[code])
                yield unpack(reader.take(packed_bytes(count, bits)), count, bits)
            reader.end()


@dataclass(frozen=True)
class Tables:
    """Frequency tables of integers in the stream, and a range coder that follows them.

    ```
    stage ──► mode of each code [1 byte] │ table or packed codes of each code │ range coder's words
    ```
    Never more than one byte a code larger than `Packed`.
    """

    codebook_sizes: tuple[int, ...]
    name: str = field(default="tables", init=False)

    def encode(self, ids: Int64[np.ndarray, "t h w q"], stages: tuple[int, ...]) -> list[bytes]:
        """See `EntropyCoder.encode`."""
        return [self._encode_stage(ids, codes) for codes in stage_codes(stages)]

    def _encode_stage(self, ids: Int64[np.ndarray, "t h w q"], codes: range) -> bytes:
        packed = [pack(ids[..., c].ravel(), width(self.codebook_sizes[c])) for c in codes]
        modes, parts = bytearray(), []
        encoder = constriction.stream.queue.RangeEncoder()
        for code, plain in zip(codes, packed, strict=True):
            plane = ids[..., code].ravel()
            weights = _worthwhile_weights(plane, self.codebook_sizes[code])
            modes.append(PACKED if weights is None else TABLE)
            if weights is None:
                parts.append(plain)
            else:
                parts.append(_write_table(weights))
                encoder.encode(plane.astype(np.int32), _model(_weight_values(weights)))
        words = encoder.get_compressed().astype("<u4").tobytes()
        coded = b"".join([bytes(modes), *parts, words])
        plain = bytes(len(codes)) + b"".join(packed)
        return coded if len(coded) < len(plain) else plain

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], stages: tuple[int, ...]
    ) -> Int64[np.ndarray, "t h w q"]:
        """See `EntropyCoder.decode`."""
        planes = (
            plane
            for stream, codes in zip(streams, stage_codes(stages), strict=True)
            for plane in self._decode_stage(_Reader(stream), codes, prod(shape))
        )
        return _join(planes, shape, stages[-1])

    def _decode_stage(self, reader: _Reader, codes: range, count: int) -> Iterator[Int64[np.ndarray, "n"]]:
        modes = reader.take(len(codes))
        contents = []
        for mode, size in zip(modes, (self.codebook_sizes[c] for c in codes), strict=True):
            if mode == TABLE and 2 <= size <= LARGEST_TABLE:
                contents.append(_model(_read_table(reader, size)))
            elif mode == PACKED:
                contents.append(unpack(reader.take(packed_bytes(count, width(size))), count, width(size)))
            else:
                raise FormatError(f"code mode {mode} does not exist for a codebook of {size}")
        words = reader.rest()
        if len(words) % 4:
            raise FormatError(f"range coder's words take 4 bytes each, found {len(words)} bytes")
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        for mode, content in zip(modes, contents, strict=True):
            yield content if mode == PACKED else _decode_plane(decoder, content, count)
        if not decoder.maybe_exhausted():
            raise FormatError("range coder's words go on after the last code")


GENERIC = {"packed": Packed, "tables": Tables}


def _join(
    planes: Iterable[Int64[np.ndarray, "n"]], shape: tuple[int, int, int], codes: int
) -> Int64[np.ndarray, "t h w q"]:
    """Planes as the codes of tokens, with one plane in memory beside them."""
    ids = np.empty((prod(shape), codes), np.int64)
    for code, plane in enumerate(planes):
        ids[:, code] = plane
    return ids.reshape(*shape, codes)


def _decode_plane(decoder, model, count: int) -> Int64[np.ndarray, "n"]:
    try:
        return decoder.decode(model, count).astype(np.int64)
    except (AssertionError, ValueError) as error:  # what constriction raises for words it never wrote
        raise FormatError(f"range coder's words do not decode: {error}") from error


def _model(weights: Int64[np.ndarray, "k"]):
    """The model in which code i has frequency `shares[i] + 1` of 2^24: exactly, on every machine.

    constriction scales floats to sum to 2^24 - k and adds one to each. These floats are integers that
    sum to 2^24 - k already, so the scale is exactly 1 and no sum is ever rounded.
    """
    free = (1 << PRECISION) - len(weights)
    total = int(weights.sum())
    if total == 0:
        raise FormatError("a frequency table holds no code")
    shares = weights * free // total
    shares[weights.argmax()] += free - shares.sum()
    return constriction.stream.model.Categorical(shares.astype(np.float64), perfect=False)


def _worthwhile_weights(plane: Int64[np.ndarray, "n"], size: int) -> UInt8[np.ndarray, "k"] | None:
    """The table's bytes, or None where packing is no larger than table and stream."""
    if not 2 <= size <= LARGEST_TABLE:
        return None
    counts = np.bincount(plane, minlength=size)
    seen = counts[counts > 0]
    entropy = float((seen * np.log2(plane.size / seen)).sum())
    if size + 8 * len(seen) + entropy >= plane.size * width(size):
        return None
    shift = np.maximum(_bit_length(counts) - 4, 0)
    rounded = counts + ((1 << shift) >> 1)
    shift = np.maximum(_bit_length(rounded) - 4, 0)
    floating = ((shift + 1) << 3) | ((rounded >> shift) & 7)
    return np.where(rounded < 8, rounded, floating).astype(np.uint8)


def _bit_length(counts: Int64[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64)


def _weight_values(table: UInt8[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
    """One byte a code: below 8 the weight itself, above a float of 5 bits exponent and 3 bits fraction."""
    exponent, fraction = table.astype(np.int64) >> 3, table.astype(np.int64) & 7
    return np.where(exponent == 0, fraction, (8 + fraction) << np.maximum(exponent - 1, 0))


def _write_table(table: UInt8[np.ndarray, "k"]) -> bytes:
    """One bit a code that tells whether it occurs, then the bytes of those that do."""
    return np.packbits(table > 0).tobytes() + table[table > 0].tobytes()


def _read_table(reader: _Reader, size: int) -> Int64[np.ndarray, "k"]:
    occurs = np.unpackbits(np.frombuffer(reader.take(packed_bytes(size, 1)), np.uint8), count=size) > 0
    table = np.zeros(size, np.uint8)
    table[occurs] = np.frombuffer(reader.take(int(occurs.sum())), np.uint8)
    return _weight_values(table)


class _Reader:
    """Takes a byte string from front to back and refuses to go past its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._position:
            raise FormatError(
                f"stream ends at byte {len(self._data)}, {count} more expected at {self._position}"
            )
        self._position += count
        return self._data[self._position - count : self._position]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def end(self) -> None:
        if self._position != len(self._data):
            raise FormatError(f"stream goes on after its last code, at byte {self._position}")
