"""Codes of a fixed number of bits, one after another, the highest bit first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from smalti.errors import FormatError

BLOCK = 1 << 16  # codes handled at once; a multiple of eight, so that every block ends on a whole byte


def width(size: int) -> int:
    """Bits that hold any code of a codebook with `size` codes; 0 for a codebook of one."""
    return (size - 1).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` packed codes; the last byte is filled with zeros."""
    return (count * bits + 7) // 8


def pack(codes: Int64[np.ndarray, "n"], bits: int) -> bytes:
    """Codes in [0, 2^bits) as bytes. `bits` is 0 to 63."""
    if bits == 0:
        return b""
    bytes_each = _bytes_each(bits)
    big_endian = np.dtype(f">u{bytes_each}")
    parts = []
    for block in _blocks(len(codes)):
        wide = codes[block].astype(big_endian).view(np.uint8).reshape(-1, bytes_each)
        parts.append(np.packbits(np.unpackbits(wide, axis=1)[:, 8 * bytes_each - bits :]).tobytes())
    return b"".join(parts)


def unpack(data: bytes, count: int, bits: int) -> Int64[np.ndarray, "n"]:
    """The codes that `pack` wrote.

    Raises:
        FormatError: `data` is longer or shorter than `count` codes.
    """
    expected = packed_bytes(count, bits)
    if len(data) != expected:
        raise FormatError(f"{count} codes of {bits} bits take {expected} bytes, found {len(data)}")
    codes = np.zeros(count, np.int64)
    if bits == 0:
        return codes
    bytes_each = _bytes_each(bits)
    packed = np.frombuffer(data, np.uint8)
    for block in _blocks(count):
        first, last = block.start * bits // 8, packed_bytes(block.stop, bits)
        narrow = np.unpackbits(packed[first:last], count=(block.stop - block.start) * bits).reshape(-1, bits)
        wide = np.zeros((len(narrow), 8 * bytes_each), np.uint8)
        wide[:, 8 * bytes_each - bits :] = narrow
        codes[block] = np.packbits(wide, axis=1).view(f">u{bytes_each}")[:, 0]
    return codes


def _bytes_each(bits: int) -> int:
    return next(size for size in (1, 2, 4, 8) if bits <= 8 * size)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))
