"""Batches of small worlds for several claims, and the schedule that they train by.

```
World, seeds ─► scenes ─► pixels [b 3 t h w], captions as ids [b l], labels [b]
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.media.worlds import VOCABULARY, Scene, World, caption, render, seeds

WORDS = 16  # of the longest caption, with its ends


class Batch(NamedTuple):
    """Clips of worlds.

    Attributes:
        scenes: that they show.
        pixels: [b 3 t h w].
        ids: [b 16] of their captions.
    """

    scenes: tuple[Scene, ...]
    pixels: Float[Tensor, "b 3 t h w"]
    ids: Int[Tensor, "b l"]

    def part(self, index: Sequence[int]) -> Batch:
        """Some of them."""
        chosen = list(index)
        return Batch(tuple(self.scenes[n] for n in chosen), self.pixels[chosen], self.ids[chosen])

    def labels(self, of: Callable[[Scene], str], names: Sequence[str]) -> Int[Tensor, "b"]:
        """What every scene is, as a number among names."""
        return torch.tensor([names.index(of(scene)) for scene in self.scenes])


def clips(world: World, split: str, count: int, first: int = 0) -> Batch:
    """The first clips of a split, or those from another on."""
    scenes = tuple(world.scene(seed) for seed in seeds(split)[first : first + count])
    pixels = torch.stack([render(scene).pixels for scene in scenes])
    return Batch(scenes, pixels, VOCABULARY.encode([caption(scene) for scene in scenes], WORDS))


def batches(count: int, size: int, steps: int, seed: int) -> list[list[int]]:
    """Numbers of `size` clips out of `count` for every step, all clips in turn, shuffled anew each time."""
    generator = torch.Generator().manual_seed(seed)
    row: list[int] = []
    while len(row) < size * steps:
        row += torch.randperm(count, generator=generator).tolist()
    return [row[step * size : (step + 1) * size] for step in range(steps)]


def descend(
    parameters: Sequence[nn.Parameter],
    losses: Sequence[Callable[[], Tensor]],
    rate: float,
    decay: float = 0.01,
) -> None:
    """AdamW on one loss after another: a tenth of the steps warms up, then the rate falls along a cosine."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    total = max(len(losses), 20)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total, pct_start=0.1)
    for loss in losses:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(list(parameters), 1.0)
        optimizer.step()
        schedule.step()
