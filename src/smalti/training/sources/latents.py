"""Latents that a frozen `mosaic` makes of crops: what its context model is trained on.

```
crops ──► encode, once ──► grids of codes, in memory ──► batch(step): one kind of frame, one stage
```
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from smalti.codec.context import KINDS
from smalti.tokenizers.mosaic import FRAMES, Mosaic
from smalti.training.sources.base import source
from smalti.training.sources.crops import CropConfig, Crops


@dataclass(frozen=True)
class LatentConfig:
    """Attributes:
    crops: of the pixels; their sides must be multiples of the patch.
    batches: how many of them to encode, once.
    """

    crops: CropConfig = field(default_factory=CropConfig)
    batches: int = 40


@source("mosaic-latents", LatentConfig)
def latents(tokenizer: Mosaic, config: LatentConfig) -> ContextSamples:
    """Latents of crops of the corpora that `smalti data` assembles."""
    return ContextSamples(tokenizer, Crops(config.crops), config.batches)


class ContextSamples:
    """Latents of random crops, as a frozen tokenizer gives them.

    Args:
        tokenizer: whose latents.
        crops: of the pixels; their sides must be multiples of the patch.
        batches: how many of them to encode, once.
    """

    def __init__(self, tokenizer: Mosaic, crops: Crops, batches: int = 40) -> None:
        self.tokenizer = tokenizer
        self.size = max(crops.config.pictures, crops.config.clips)
        found: dict[str, list[Tensor]] = {"pictures": [], "clips": []}
        for step in range(batches):
            for name, pixels in crops.batch(step, seed=1).items():
                tokens = tokenizer.encode(pixels)
                assert tokens.ids is not None
                assert tokens.grid is not None
                found[name].append(tokens.ids.int().unflatten(1, tokens.grid))
        self.pictures, self.clips = (torch.cat(parts) if parts else None for parts in found.values())

    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        """One kind and stage after the other; latents `old`, `new` and `past` [b h w d] in half steps."""
        random = np.random.default_rng((seed, step))
        quantizer = self.tokenizer.quantizer
        kinds = len(KINDS) if self.clips is not None else 1
        kind, stage = step % kinds, step // kinds % quantizer.depth
        still = self.clips is None or (kind == 0 and self.pictures is not None)
        pool = self.pictures if still else self.clips
        chosen = torch.from_numpy(random.integers(len(pool), size=self.size))
        index = 0 if kind == 0 else int(random.integers(1, pool.shape[1]))
        sequences = pool[chosen].long()
        old, new = self._latents(sequences[:, index], stage - 1), self._latents(sequences[:, index], stage)
        past = torch.zeros_like(new)
        if KINDS[kind] == "next":
            past = self._latents(sequences[:, index - 1], stage)
            if index == 1:
                still = self.tokenizer.still
                doubled = FRAMES // 2 * past[..., still.clamp(min=0)]
                past = torch.where(still >= 0, doubled, 0)
        return {
            "kind": torch.tensor(kind),
            "stage": torch.tensor(stage),
            "old": old,
            "new": new,
            "past": past,
        }

    def _latents(self, ids: Int[Tensor, "b h w q"], stage: int) -> Int[Tensor, "b h w d"]:
        quantizer = self.tokenizer.quantizer
        if stage < 0:
            return ids.new_zeros((*ids.shape[:3], quantizer.dim))
        return quantizer.half_steps(ids[..., : quantizer.stages[stage]])
