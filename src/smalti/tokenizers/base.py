"""The contract of tokenizers: pixels ⇄ `Tokens`, any size, any length.

```
pixels [b 3 t h w] in [0, 1] ──► encode ──► Tokens (ids [b n q]) ──► decode ──► pixels [b 3 t h w]
chunk, chunk, …  ──► stream().encoder.push ──► Tokens ──► stream().decoder.push ──► chunk, chunk, …
```
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from smalti import weights
from smalti.errors import ConfigError, FormatError, MediaError, UnsupportedError
from smalti.tokens import Tokens


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is not a batch of RGB frames in [0, 1], naming the first bad value.

    Raises:
        MediaError: wrong shape, integers, no frame, NaN, or a value outside [0, 1].
    """
    if pixels.ndim != 5 or pixels.shape[1] != 3:
        raise MediaError(f"pixels must be [batch, 3, frames, height, width], not {tuple(pixels.shape)}")
    if not pixels.is_floating_point():
        raise MediaError(f"pixels must be floats in [0, 1], not {pixels.dtype}: divide by the white value")
    if 0 in pixels.shape:
        raise MediaError(f"pixels are empty: {tuple(pixels.shape)}")
    low, high = torch.aminmax(pixels)
    if not (low >= 0 and high <= 1):  # NaN fails both
        bad = ~((pixels >= 0) & (pixels <= 1))
        where = tuple(int(i) for i in bad.nonzero()[0])
        value = pixels[where].item()
        raise MediaError(f"pixels must lie in [0, 1]: found {value} at [b, c, t, h, w] = {list(where)}")


def check_ids(ids: Tensor, codebook_sizes: tuple[int, ...]) -> None:
    """Refuse ids that no codebook holds, naming the first.

    Raises:
        FormatError: wrong dtype, more codes a token than codebooks, or an id out of range.
    """
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise FormatError(f"ids must be integers, not {ids.dtype}")
    if not 1 <= ids.shape[-1] <= len(codebook_sizes):
        raise FormatError(
            f"{ids.shape[-1]} codes a token, but 1 to {len(codebook_sizes)} codebooks are known"
        )
    sizes = torch.tensor(codebook_sizes[: ids.shape[-1]], device=ids.device)
    bad = (ids < 0) | (ids >= sizes)
    if bad.any():
        where = tuple(int(i) for i in bad.nonzero()[0])
        raise FormatError(
            f"id {int(ids[where])} at [b, n, q] = {list(where)} is outside 0..{int(sizes[where[-1]]) - 1}"
        )


class StreamEncoder(Protocol):
    """Takes frames as they come and gives tokens as soon as they are certain."""

    def push(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens | None:
        """Tokens that became complete with these frames, if any.

        Raises:
            ConfigError: the stream was flushed.
        """
        ...

    def flush(self) -> Tokens | None:
        """The rest, once no more frames come."""
        ...


class StreamDecoder(Protocol):
    """Takes tokens as they come and gives their frames."""

    def push(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        """The frames of these tokens, cropped as `tokens.source` says."""
        ...


@dataclass(frozen=True)
class Reconstruction:
    """What training sees of one pass through a tokenizer.

    Attributes:
        pixels: rebuilt, with a gradient, not clamped, of the size that went in.
        loss: what the tokenizer itself asks to be minimised: its quantizer's loss, a prior's, ….
        parts: what else is worth logging.
    """

    pixels: Float[Tensor, "b 3 t h w"]
    loss: Float[Tensor, ""]
    parts: dict[str, Tensor] = field(default_factory=dict)


class Stream(NamedTuple):
    """An encoder and a decoder whose memory does not grow with length."""

    encoder: StreamEncoder
    decoder: StreamDecoder


class Tokenizer(nn.Module, PyTorchModelHubMixin, ABC):
    """Pixels to tokens and back.

    Attributes:
        compression: frames, rows and columns of the source that one token stands for.
        codebook_sizes: how many values each code of a token can take; empty when continuous.
        causal: no token depends on a later frame, so `stream()` works.
        ordered: any first k tokens decode.
        stages: codes a token at every quality, for progressive tokenizers: `ids[..., :stages[i]]` decodes.
        chunk: grids after which a causal tokenizer forgets, so that decoding can begin there; None if never.
    """

    compression: tuple[int, int, int]
    codebook_sizes: tuple[int, ...] = ()
    causal: bool = False
    ordered: bool = False
    chunk: int | None = None

    @property
    def stages(self) -> tuple[int, ...]:
        """Codes a token at every quality; one quality unless the tokenizer is progressive."""
        return (len(self.codebook_sizes),)

    def encode(self, pixels: Float[Tensor, "b 3 t h w"], quality: int | None = None) -> Tokens:
        """Tokens of whole pictures (t = 1) or clips.

        Args:
            pixels: RGB in [0, 1], any size and length.
            quality: 1 to `len(stages)`; the highest when not given.

        Raises:
            MediaError: pixels of the wrong shape or type, NaN, or outside [0, 1].
            ConfigError: a quality that does not exist.
        """
        check_pixels(pixels)
        codes = self.codes_at(quality)
        with torch.no_grad():
            tokens = self._encode(pixels)
        return tokens if tokens.ids is None else tokens.codebooks(codes)

    def decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        """Pixels in [0, 1] of the size and length that were encoded.

        Raises:
            FormatError: ids that no codebook holds, or tokens without grid or source.
        """
        if tokens.ids is not None:
            check_ids(tokens.ids, self.codebook_sizes)
        with torch.no_grad():
            return self._decode(tokens)

    def reconstruct(self, pixels: Float[Tensor, "b 3 t h w"]) -> Reconstruction:
        """Encode, quantize and decode with gradients, for training.

        Raises:
            UnsupportedError: this tokenizer is trained by an objective of its own.
        """
        raise UnsupportedError(f"{type(self).__name__} is not trained by reconstruction alone")

    def codes_at(self, quality: int | None) -> int:
        """Codes a token at a quality.

        Raises:
            ConfigError: a quality that does not exist.
        """
        if quality is None:
            quality = len(self.stages)
        if not 1 <= quality <= len(self.stages):
            raise ConfigError(f"quality {quality} does not exist: choose 1 to {len(self.stages)}")
        return self.stages[quality - 1]

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives.

        Raises:
            ConfigError: the tokenizer is not causal.
        """
        raise ConfigError(f"{type(self).__name__} is not causal: it cannot stream")

    def _save_pretrained(self, save_directory: Path) -> None:
        weights.write(self, save_directory / weights.FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Tokenizer:
        return weights.read(weights.locate(model_id, options))

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name these weights; token files carry them."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(str(tuple(value.shape)).encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @abstractmethod
    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens: ...

    @abstractmethod
    def _decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]: ...
