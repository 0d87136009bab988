"""The contract of tokenizers that give a grid of tokens and look both ways in time, or at pictures alone.

```
pixels [b 3 t h w] ─► fit ─► encode_grid ─► codes [b t' h' w' c] ─► Tokens ─► decode_grid ─► crop ─► pixels
```
"""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from smalti.tokenizers.base import Tokenizer
from smalti.tokenizers.extent import crop, fit, grid_codes, grid_tokens
from smalti.tokens import Tokens


class GridTokenizer(Tokenizer):
    """A tokenizer with one token for every `compression` frames, rows and columns."""

    @abstractmethod
    def encode_grid(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tensor:
        """Codes [b t' h' w' c], ids or values, of pixels in [0, 1] whose size is a multiple."""

    @abstractmethod
    def decode_grid(self, codes: Tensor) -> Float[Tensor, "b 3 t h w"]:
        """Pixels of codes, not yet clamped or cropped."""

    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        padded, source = fit(pixels, self.compression)
        return grid_tokens(self.encode_grid(padded), source, self.compression)

    def _decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        codes, source = grid_codes(tokens)
        return crop(self.decode_grid(codes), source)
