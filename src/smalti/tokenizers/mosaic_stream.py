"""`mosaic` frame by frame: the encoder and decoder behind `Mosaic.stream()`, which whole passes use too.

```
frames ──► MosaicEncoder: up to three held ──► groups of 1, 4, 4, … ──► analyse in tiles ──► ids of a grid
ids of a grid ──► latents, with those of the grid before ──► MosaicDecoder: synthesise in tiles ──► frames
```
"""

from __future__ import annotations

from fractions import Fraction

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.nn.patches import reflect_to_multiple
from smalti.nn.tiles import tiled
from smalti.tokenizers.base import check_ids, check_pixels
from smalti.tokenizers.mosaic import FRAMES, Mosaic
from smalti.tokens import Source, Tokens


class MosaicEncoder:
    """Holds at most three frames between pushes; one whole pass works the same way."""

    def __init__(self, tokenizer: Mosaic) -> None:
        self.tokenizer = tokenizer
        self.held: Tensor | None = None
        self.first = 0
        self.flushed = False

    def push(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens | None:
        """Tokens of the frames that complete a group.

        Raises:
            MediaError: pixels that are no frames, or of another size than those before.
            ConfigError: the stream was flushed.
        """
        if self.flushed:
            raise ConfigError("this stream was flushed and takes no more frames: begin another, stream()")
        check_pixels(pixels)
        pixels = pixels.detach().to(self.tokenizer.picture.mean.dtype)
        if self.held is not None:
            if self.held.shape[-2:] != pixels.shape[-2:]:
                raise MediaError(f"frames change size from {self.held.shape[-2:]} to {pixels.shape[-2:]}")
            pixels = torch.cat([self.held, pixels], 2)
        done = 0
        grids = []
        with torch.no_grad():
            while (size := 1 if self.first + done == 0 else FRAMES) <= pixels.shape[2] - done:
                grids.append(self._ids(pixels[:, :, done : done + size]))
                done += size
        self.held = pixels[:, :, done:].clone()
        return self._tokens(grids, done, 0, pixels.shape) if grids else None

    def flush(self) -> Tokens | None:
        """Tokens of the frames that are left, the last one repeated to fill a group."""
        held, self.held, self.flushed = self.held, None, True
        if held is None or held.shape[2] == 0:
            return None
        pad = FRAMES - held.shape[2]
        with torch.no_grad():
            filled = torch.cat([held, held[:, :, -1:].expand(-1, -1, pad, -1, -1)], 2)
            return self._tokens([self._ids(filled)], held.shape[2], pad, held.shape)

    def _ids(self, group: Float[Tensor, "b 3 t h w"]) -> Int[Tensor, "b hp wp q"]:
        model = self.tokenizer
        patch = model.config.patch
        path = model.picture if group.shape[2] == 1 else model.clip
        padded = reflect_to_multiple(group, patch)
        latents = tiled(
            lambda part: path.analyse(part, model.encoder),
            padded,
            tile=model.config.tile // patch * patch,
            halo=patch * (2 + 2 * len(model.encoder)),
            scale=Fraction(1, patch),
        )
        return model.quantizer.ids(rearrange(latents, "b d h w -> b h w d"))

    def _tokens(self, grids: list[Tensor], frames: int, pad: int, shape: torch.Size) -> Tokens:
        batch, height, width = shape[0], shape[3], shape[4]
        patch = self.tokenizer.config.patch
        ids = torch.stack(grids, 1)
        grid = (ids.shape[1], ids.shape[2], ids.shape[3])
        centre = self.first - pad / 2 + torch.arange(grid[0], device=ids.device) * FRAMES
        centre = centre + (FRAMES - 1) / 2 if self.first else (centre - (FRAMES - 1) / 2).clamp(min=0)
        axes = [centre, *(patch * (torch.arange(n, device=ids.device) + 0.5) - 0.5 for n in grid[1:])]
        coords = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
        source = Source(
            height, width, frames, self.first, pad=(pad, grid[1] * patch - height, grid[2] * patch - width)
        )
        self.first += frames
        return Tokens(
            ids=rearrange(ids, "b t h w q -> b (t h w) q"),
            coords=coords.expand(batch, -1, -1).float(),
            mass=torch.ones(batch, coords.shape[1], device=ids.device),
            grid=grid,
            source=source,
        )


class MosaicDecoder:
    """Holds the latents of one grid between pushes."""

    def __init__(self, tokenizer: Mosaic) -> None:
        self.tokenizer = tokenizer
        self.past: Tensor | None = None
        self.next: int | None = None

    def push(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        """The frames of these tokens.

        Raises:
            FormatError: tokens without ids, grid or source, or that do not follow those before.
        """
        model = self.tokenizer
        if tokens.ids is None or tokens.grid is None or tokens.source is None:
            raise FormatError("mosaic decodes tokens with ids, grid and source; one is missing")
        check_ids(tokens.ids, model.codebook_sizes)
        source = tokens.source
        index = -(-source.first // FRAMES)
        if source.first and (source.first - 1) % FRAMES:
            raise FormatError(f"tokens start at frame {source.first}, inside a token's {FRAMES} frames")
        if self.next is None and index % model.chunk:
            raise FormatError(
                f"tokens start at frame {source.first}, inside a chunk: start at its first frame"
            )
        if self.next not in (None, index):
            raise FormatError(f"tokens of frame {source.first} do not follow those decoded before")
        stage = model.quantizer.depth_of(tokens.ids.shape[-1]) - 1
        grids = rearrange(tokens.ids, "b (t h w) q -> t b h w q", t=tokens.grid[0], h=tokens.grid[1])
        with torch.no_grad():
            frames = [self._frames(ids, index + i, stage) for i, ids in enumerate(grids)]
        self.next = index + len(grids)
        return torch.cat(frames, 2)[:, :, : source.frames, : source.height, : source.width]

    def _frames(self, ids: Int[Tensor, "b h w q"], index: int, stage: int) -> Float[Tensor, "b 3 t hp wp"]:
        model = self.tokenizer
        latents = rearrange(model.quantizer.lookup(ids), "b h w d -> b d h w")
        stages = torch.full((len(ids),), stage, device=ids.device)
        path = model.clip if index else model.picture
        maps = latents
        if index:
            past = self.past if self.past is not None and index % model.chunk else torch.zeros_like(latents)
            maps = torch.cat([latents, past], 1)
        dim = latents.shape[1]
        pixels = tiled(
            lambda part: path.synthesise(part[:, :dim], part[:, dim:], stages, model.decoder),
            maps,
            tile=model.config.tile // model.config.patch,
            halo=4 + 2 * len(model.decoder),
            scale=Fraction(model.config.patch),
        )
        self.past = latents if index else model.past_of_picture(latents)
        return pixels.clamp(0, 1)
