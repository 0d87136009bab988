"""The contract of causal tokenizers: a part at a time, with what the past left behind.

```
frames ──► held until a group is full ──► encode_part(group, state) ──► Tokens of 1 + k grids, then k grids, …
Tokens ──► decode_part(codes, state) ──► frames
                          └─ state: what layers keep from the past (`nn.causal_conv.State`)
```
A whole pass is one part whose state begins empty, so streamed equals whole.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.nn.causal_conv import State
from smalti.tokenizers.base import Stream, Tokenizer, check_ids, check_pixels
from smalti.tokenizers.extent import crop, fit, grid_codes, grid_tokens
from smalti.tokens import Tokens


class CausalTokenizer(Tokenizer):
    """A tokenizer whose first grid stands for one frame and every later one for `compression[0]` frames."""

    causal = True

    @abstractmethod
    def encode_part(self, pixels: Float[Tensor, "b 3 t h w"], state: State) -> Tensor:
        """Codes [b t' h' w' c], ids or values, of the next frames: 1 + k·period at first, then k·period."""

    @abstractmethod
    def decode_part(self, codes: Tensor, state: State) -> Float[Tensor, "b 3 t h w"]:
        """The frames of the next grids of codes, not yet clamped or cropped."""

    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        padded, source = fit(pixels, self.compression, head=1)
        return grid_tokens(self.encode_part(padded, {}), source, self.compression, head=1)

    def _decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        codes, source = grid_codes(tokens)
        if source.first:
            raise FormatError(
                f"these tokens start at frame {source.first}: without those before only a stream decodes them"
            )
        return crop(self.decode_part(codes, {}), source)

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives."""
        return Stream(PartEncoder(self), PartDecoder(self))


class PartEncoder:
    """Holds frames until a grid's are complete."""

    def __init__(self, tokenizer: CausalTokenizer) -> None:
        self.tokenizer = tokenizer
        self.state: State = {}
        self.held: Tensor | None = None
        self.first = 0
        self.flushed = False

    def push(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens | None:
        """Tokens of the frames that complete a grid.

        Raises:
            MediaError: pixels that are no frames, or of another size than those before.
            ConfigError: the stream was flushed.
        """
        if self.flushed:
            raise ConfigError("this stream was flushed and takes no more frames: begin another, stream()")
        check_pixels(pixels)
        if self.held is not None:
            if self.held.shape[-2:] != pixels.shape[-2:]:
                raise MediaError(f"frames change size from {self.held.shape[-2:]} to {pixels.shape[-2:]}")
            pixels = torch.cat([self.held, pixels], 2)
        head, period = int(self.first == 0), self.tokenizer.compression[0]
        ready = pixels.shape[2] - (pixels.shape[2] - head) % period
        self.held = pixels[:, :, ready:].clone()
        return self._tokens(pixels[:, :, :ready], head) if ready else None

    def flush(self) -> Tokens | None:
        """Tokens of the frames that are left, the last one repeated to fill a grid."""
        held, self.held, self.flushed = self.held, None, True
        return None if held is None or held.shape[2] == 0 else self._tokens(held, 0)

    def _tokens(self, pixels: Tensor, head: int) -> Tokens:
        padded, source = fit(pixels, self.tokenizer.compression, head=head)
        with torch.no_grad():
            codes = self.tokenizer.encode_part(padded, self.state)
        source = dataclasses.replace(source, first=self.first)
        self.first += source.frames
        return grid_tokens(codes, source, self.tokenizer.compression, head=1)


class PartDecoder:
    """Takes tokens in the order in which the encoder gave them."""

    def __init__(self, tokenizer: CausalTokenizer) -> None:
        self.tokenizer = tokenizer
        self.state: State = {}
        self.next = 0

    def push(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        """The frames of these tokens.

        Raises:
            FormatError: tokens without grid or source, or that do not follow those before.
        """
        if tokens.ids is not None:
            check_ids(tokens.ids, self.tokenizer.codebook_sizes)
        codes, source = grid_codes(tokens)
        if source.first != self.next:
            raise FormatError(f"tokens of frame {source.first} do not follow: frame {self.next} is the next")
        self.next += source.frames
        with torch.no_grad():
            return crop(self.tokenizer.decode_part(codes, self.state), source)
