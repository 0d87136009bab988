"""Any size and length: what is added before encoding, noted in `Source`, and removed after decoding.

```
pixels [b 3 t h w] ──► fit ──► multiples of the token's frames, rows, columns + Source(pad) ──► …
codes [b t h w c] ──► grid_tokens ──► Tokens with centres and mass
decoded ──► crop ──► [b 3 t h w] in [0, 1], as it went in
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import FormatError
from smalti.nn.patches import reflect_to_multiple
from smalti.tokens import Source, Tokens


def fit(
    pixels: Float[Tensor, "b 3 t h w"], multiple: tuple[int, int, int], *, head: int = 0
) -> tuple[Float[Tensor, "b 3 _t _h _w"], Source]:
    """Continue in mirror image in space and with the last frame in time, up to multiples.

    Args:
        pixels: frames.
        multiple: frames, rows and columns.
        head: frames in front that make a token of their own, as the first frame of causal tokenizers.
    """
    frames, height, width = pixels.shape[2:]
    more = -(frames - head) % multiple[0] if frames > head else head - frames
    if more:
        pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, more, -1, -1)], 2)
    pixels = reflect_to_multiple(pixels, multiple[1:])
    pad = (more, pixels.shape[3] - height, pixels.shape[4] - width)
    return pixels, Source(height, width, frames, pad=pad)


def crop(pixels: Float[Tensor, "b 3 _t _h _w"], source: Source) -> Float[Tensor, "b 3 t h w"]:
    """The frames, rows and columns of the source, in [0, 1]."""
    return pixels[:, :, : source.frames, : source.height, : source.width].float().clamp(0, 1)


def grid_tokens(codes: Tensor, source: Source, compression: tuple[int, int, int], *, head: int = 0) -> Tokens:
    """Tokens of codes [b t h w c] on a grid: ids where they are integers, else values.

    Args:
        codes: of every place of the grid.
        source: what was encoded.
        compression: frames, rows and columns of a token.
        head: frames of the first token of the source, where these are fewer.
    """
    batch, *grid = codes.shape[:4]
    period, rows, columns = compression
    first = torch.arange(grid[0], device=codes.device) * period
    if head and source.first:
        first = first + source.first
    elif head:
        first = first - period + head
    centre = first + (period - 1) / 2
    if head and not source.first:
        centre[0] = (head - 1) / 2
    axes = [
        centre,
        *(
            size * (torch.arange(count, device=codes.device) + 0.5) - 0.5
            for size, count in ((rows, grid[1]), (columns, grid[2]))
        ),
    ]
    coords = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3).float()
    flat, continuous = codes.flatten(1, 3), codes.is_floating_point()
    return Tokens(
        values=flat if continuous else None,
        ids=None if continuous else flat,
        coords=coords.expand(batch, -1, -1),
        mass=torch.ones(batch, coords.shape[1], device=codes.device),
        grid=(grid[0], grid[1], grid[2]),
        source=source,
    )


def grid_codes(tokens: Tokens) -> tuple[Tensor, Source]:
    """Codes [b t h w c] of tokens on a grid, and their source.

    Raises:
        FormatError: tokens without grid or source.
    """
    if tokens.grid is None or tokens.source is None:
        raise FormatError("these tokens have no grid or no source: they cannot be laid out")
    codes = tokens.ids if tokens.ids is not None else tokens.values
    assert codes is not None  # Tokens refuse both missing
    return codes.unflatten(1, tokens.grid), tokens.source
