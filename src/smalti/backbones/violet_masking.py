"""What VIOLET hides: blocks of space and time, or what is attended to most; a coin decides for each sample.

```
blockwise: union of t random boxes [t h w]            words, each with a probability
attended:  attention received [b t·(1+h·w) + n] ─► drawn without return, in its proportion
chosen cells ─► pixels 0                              chosen words ─► [MASK]
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalti.backbones.violet import VIOLET
from smalti.errors import ConfigError


def _integer(low: int, high: int, generator: torch.Generator | None) -> int:
    """At least `low`, below `high`; `low` where nothing lies between."""
    return int(torch.randint(low, max(high, low + 1), (), generator=generator))


def blockwise(grid: tuple[int, int, int], generator: torch.Generator | None = None) -> Bool[Tensor, "t h w"]:
    """The union of as many boxes as there are frames.

    A box has 1 to t − 1 frames (1 of a picture) and 1 to ⌊2h/3⌋ − 1 rows, at least one; columns likewise.
    """
    chosen = torch.zeros(grid, dtype=torch.bool)
    sizes = (grid[0], grid[1] * 2 // 3, grid[2] * 2 // 3)
    for _ in range(grid[0]):
        box = [_integer(1, size, generator) for size in sizes]
        starts = [_integer(0, n - s + 1, generator) for n, s in zip(grid, box, strict=True)]
        chosen[tuple(slice(a, a + s) for a, s in zip(starts, box, strict=True))] = True
    return chosen


def attended(
    mass: Float[Tensor, "b n"],
    special: Bool[Tensor, "b n"],
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "b n"]:
    """A share of all positions, drawn without return in proportion to their mass, special ones never.

    Raises:
        ConfigError: fewer positions may be drawn than shall be.
    """
    count = int(mass.shape[1] * share)
    chosen = torch.zeros_like(special)
    if count == 0:
        return chosen
    weight = mass.float().masked_fill(special, 0)
    if int((weight > 0).sum(1).min()) < count:
        raise ConfigError(f"{count} positions cannot be drawn: fewer are neither special nor unattended")
    drawn = torch.multinomial(weight.cpu(), count, generator=generator).to(mass.device)
    return chosen.scatter(1, drawn, True)


def hide(
    pixels: Float[Tensor, "b 3 t h w"], cells: Bool[Tensor, "b t rows columns"], side: tuple[int, int]
) -> Float[Tensor, "b 3 t h w"]:
    """Pixels with zeros in the chosen cells of some rows and columns of pixels each."""
    cover = cells.repeat_interleave(side[0], 2).repeat_interleave(side[1], 3)
    cover = cover[:, :, : pixels.shape[3], : pixels.shape[4]]
    return pixels.masked_fill(cover[:, None], 0)


class Hidden(NamedTuple):
    """A batch with parts to be guessed.

    Attributes:
        pixels: [b 3 t h w] with zeros in hidden cells.
        ids: [b n] with [MASK] at hidden words.
        cells: [b t h w] True where hidden.
        words: [b n] True where hidden.
    """

    pixels: Tensor
    ids: Tensor
    cells: Tensor
    words: Tensor


@dataclass(frozen=True)
class Masking:
    """How a batch is hidden.

    Attributes:
        share: of words, blockwise; of all positions, attended.
        attended: share of samples that are masked by attention.
        mask: id of [MASK].
        special: ids of [PAD], [CLS] and [SEP], never masked.
    """

    share: float = 0.15
    attended: float = 0.5
    mask: int = 103
    special: tuple[int, ...] = (0, 101, 102)

    def __call__(
        self,
        model: VIOLET,
        pixels: Float[Tensor, "b 3 t h w"],
        ids: Int[Tensor, "b n"],
        real: Bool[Tensor, "b n"],
        generator: torch.Generator | None = None,
    ) -> Hidden:
        """Hide parts of videos in [0, 1] and of their texts; `real` is True where a word is no padding."""
        device, batch = pixels.device, len(pixels)
        t, h, w = model.config.video.grid(*pixels.shape[2:])
        by_attention = (torch.rand(batch, generator=generator) < self.attended).to(device)
        special = torch.isin(ids, torch.tensor(self.special, device=device)) | ~real
        words = (torch.rand(ids.shape, generator=generator).to(device) < self.share) & ~special
        cells = torch.stack([blockwise((t, h, w), generator) for _ in range(batch)]).to(device)
        if by_attention.any():
            some = by_attention.nonzero().squeeze(1)
            mass = model.attention_received(pixels[some], ids[some], real[some])
            first = torch.zeros(len(some), t, 1 + h * w, dtype=torch.bool, device=device)
            first[:, :, 0] = True
            drawn = attended(mass, torch.cat([first.flatten(1), special[some]], 1), self.share, generator)
            seen = drawn[:, : first[0].numel()].unflatten(1, (t, 1 + h * w))[:, :, 1:]
            cells[some] = seen.unflatten(2, (h, w))
            words[some] = drawn[:, first[0].numel() :]
        hidden = hide(pixels, cells, model.config.video.stride[1:])
        return Hidden(hidden, torch.where(words, self.mask, ids), cells, words)
