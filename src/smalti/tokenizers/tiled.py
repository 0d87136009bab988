"""Tokenizers of fixed-size inputs on any size and length: the source is cut into tiles.

```
pixels [b 3 t h w] ──► fit ──► tiles [m 3 T S S], m = b · groups · rows · columns ──► encode_tiles ──► [m k c]
                                                                                          │
pixels ◄── crop ◄── tiles ◄── decode_tiles ◄── first k' of every tile ◄── Tokens [b n c], rank by rank
```
Tokens are ordered by rank: first the first token of every tile, then the second, …; so a prefix of the
sequence holds a prefix of every tile, and ordered tokenizers decode any prefix of any source.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from smalti.errors import FormatError
from smalti.tokenizers.base import Tokenizer
from smalti.tokenizers.tiling import cut_tiles, join_tiles
from smalti.tokens import Source, Tokens

AT_ONCE = 16  # tiles in memory


class TiledTokenizer(Tokenizer):
    """A tokenizer that turns a tile of `compression` frames, rows and columns into `length` tokens.

    Every token stands for the whole tile. Frames are 1 where pictures are encoded one by one.

    Attributes:
        length: tokens of a tile.
    """

    length: int

    @abstractmethod
    def encode_tiles(self, tiles: Float[Tensor, "m 3 t s r"]) -> Tensor:
        """Codes [m k c] of tiles in [0, 1]: ids, or values."""

    @abstractmethod
    def decode_tiles(self, codes: Tensor) -> Float[Tensor, "m 3 t s r"]:
        """Tiles of codes [m k c], not yet clamped; ordered tokenizers take any k from 1 to `length`."""

    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        tiles, source = cut_tiles(pixels, self.compression)
        codes = torch.cat([self.encode_tiles(some) for some in tiles.split(AT_ONCE)])
        codes = rearrange(codes, "(b m) k c -> b (k m) c", b=len(pixels))
        continuous = codes.is_floating_point()
        return Tokens(
            values=codes if continuous else None,
            ids=None if continuous else codes,
            coords=self._centres(source, codes),
            source=source,
        )

    def _centres(self, source: Source, codes: Tensor) -> Float[Tensor, "b n 3"]:
        """A token of a tile stands for all of it: its centre is the tile's."""
        axes = [
            size * (torch.arange(count, device=codes.device) + 0.5) - 0.5
            for size, count in zip(self.compression, self.layout(source), strict=True)
        ]
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).float()
        ranks = codes.shape[1] // len(centres)
        return centres.repeat(ranks, 1).expand(len(codes), -1, -1)

    def layout(self, source: Source) -> tuple[int, int, int]:
        """Tiles in time, rows and columns."""
        sizes = zip((source.frames, source.height, source.width), source.pad, self.compression, strict=True)
        frames, rows, columns = ((size + pad) // tile for size, pad, tile in sizes)
        return frames, rows, columns

    def _decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        codes = tokens.ids if tokens.ids is not None else tokens.values
        if tokens.source is None or codes is None:
            raise FormatError("these tokens have no source: the tiles they stand for are unknown")
        g, y, x = self.layout(tokens.source)
        count, over = divmod(codes.shape[1], g * y * x)
        if not self.ordered and (count, over) != (self.length, 0):
            raise FormatError(
                f"{codes.shape[1]} tokens for {g * y * x} tiles of {self.length}: all of them are needed"
            )
        if count == 0 or count + bool(over) > self.length:
            raise FormatError(
                f"{codes.shape[1]} tokens do not stand for {g * y * x} tiles of 1 to {self.length} tokens"
            )
        even = rearrange(codes[:, : count * g * y * x], "b (k m) c -> b m k c", k=count)
        tiles = self._decoded(even[:, over:])
        if over:  # some tiles have a token more
            more = torch.cat([even[:, :over], codes[:, count * g * y * x :, None]], 2)
            tiles = torch.cat([self._decoded(more), tiles], 1)
        return join_tiles(tiles.flatten(0, 1), tokens.source).float().clamp(0, 1)

    def _decoded(self, codes: Tensor) -> Float[Tensor, "b m 3 t s r"]:
        tiles = [self.decode_tiles(some) for some in codes.flatten(0, 1).split(AT_ONCE)]
        return torch.cat(tiles).unflatten(0, codes.shape[:2])
