"""Continuous latents ⇄ bytes, at a stated precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, FormatError, nearest

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def precision_of(values: Tensor) -> str:
    """The precision that keeps these values as they are; float32 for wider ones."""
    return next((name for name, dtype in DTYPES.items() if dtype == values.dtype), "float32")


@dataclass(frozen=True)
class Latents:
    """Values one after another, little-endian. `int8` puts one float32 scale a channel in front.

    Args:
        precision: float32, float16, bfloat16 or int8.
        dim: channels of a token.

    Raises:
        ConfigError: an unknown precision.
    """

    precision: str
    dim: int
    name: str = field(default="latents", init=False)

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ConfigError(f"no precision {self.precision!r}: {nearest(self.precision, DTYPES)}")

    def encode(self, values: Float[Tensor, "t h w d"], stages: tuple[int, ...] = ()) -> list[bytes]:
        """One byte string: continuous latents have one stage.

        Raises:
            ConfigError: NaN, or a value beyond the precision's range.
        """
        scales = b""
        if self.precision == "int8":
            scale = values.float().abs().amax(dim=(0, 1, 2)) / 127
            scale = torch.where(scale > 0, scale, 1.0)
            scales = _to_bytes(scale)
            stored = (values.float() / scale).round()
        else:
            stored = values.to(DTYPES[self.precision])
        bad = (~stored.isfinite()).nonzero()
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            raise ConfigError(
                f"value {float(values[where])} at [t, h, w, d] = {list(where)} does not fit "
                f"{self.precision}: choose precision='float32', or repair the encoder"
            )
        return [scales + _to_bytes(stored.to(DTYPES[self.precision]))]

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], stages: tuple[int, ...] = ()
    ) -> Float[Tensor, "t h w d"]:
        """The values in their stored precision; `int8` comes back as float32.

        Raises:
            FormatError: a byte string of another length.
        """
        (stream,) = streams
        if len(stream) != self.stream_bytes(prod(shape)):
            raise FormatError(
                f"{prod(shape)} tokens of {self.dim} {self.precision} values take "
                f"{self.stream_bytes(prod(shape))} bytes, found {len(stream)}"
            )
        raw = torch.frombuffer(bytearray(stream), dtype=torch.uint8) if stream else torch.empty(0).byte()
        if self.precision != "int8":
            return raw.view(DTYPES[self.precision]).reshape(*shape, self.dim)
        scale, levels = raw[: 4 * self.dim].view(torch.float32), raw[4 * self.dim :].view(torch.int8)
        return levels.reshape(*shape, self.dim).float() * scale

    def stream_bytes(self, tokens: int) -> int:
        """Bytes of so many tokens."""
        values = tokens * self.dim * DTYPES[self.precision].itemsize
        return values + (4 * self.dim if self.precision == "int8" else 0)


def _to_bytes(values: Tensor) -> bytes:
    return values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
