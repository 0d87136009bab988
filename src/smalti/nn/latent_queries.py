"""A picture as a sequence without places (TiTok, 2024): learned queries read it, masks are painted from it.

```
picture [b 3 s s] ─► patches + positions ─┐
class embedding + position ───────────────┼─► norm ─► blocks ─► the queries alone ─► norm ─► latents [b k d]
queries [k w] + positions ────────────────┘

latents [b k d] ─► width + positions ─────┐
g² times one mask token + positions ──────┼─► norm ─► blocks ─► the masks alone ─► norm ─► places [b g² w]
class embedding + position ───────────────┘
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.transformer import Block

EPS = 1e-5


@dataclass(frozen=True)
class TowerConfig:
    """Attributes:
    width: channels of the transformer.
    depth: of its blocks.
    heads: of their attention.
    """

    width: int = 512
    depth: int = 8
    heads: int = 8

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.width} channels")


SMALL, BASE, LARGE = TowerConfig(), TowerConfig(768, 12, 12), TowerConfig(1024, 24, 16)


class Tower(nn.Module):
    """What both sides share: the class embedding, tables of positions, norms and blocks.

    Args:
        tower: sizes of the transformer.
        places: of the picture.
        length: of the sequence.
    """

    def __init__(self, tower: TowerConfig, places: int, length: int) -> None:
        super().__init__()
        self.places = places
        self.class_embedding = _table(1, tower.width)
        self.positions = _table(places + 1, tower.width)
        self.latent_positions = _table(length, tower.width)
        self.ln_pre = nn.LayerNorm(tower.width, EPS)
        self.blocks = nn.ModuleList(Block(tower.width, tower.heads, eps=EPS) for _ in range(tower.depth))
        self.ln_post = nn.LayerNorm(tower.width, EPS)

    def mix(
        self,
        places: Float[Tensor, "b n w"],
        latents: Float[Tensor, "b k w"],
        allowed: Tensor | None = None,
    ) -> Float[Tensor, "b m w"]:
        """All tokens behind the blocks: class, places, latents."""
        first = self.class_embedding.expand(len(places), -1, -1)
        x = torch.cat([first, places], 1) + self.positions
        x = self.ln_pre(torch.cat([x, latents + self.latent_positions[: latents.shape[1]]], 1))
        for block in self.blocks:
            x = block(x, allowed)
        return x


class LatentQueryEncoder(Tower):
    """A picture → k latents.

    Args:
        tower: sizes of the transformer.
        grid: patches a side.
        patch: pixels a side of a patch.
        length: latents.
        out: channels of a latent.
        scrambled: read the matrix [k w] of all latents row by row as one of [w k] before the last product, so
            that every latent holds some of every query: what the first official weights were trained with.
    """

    def __init__(
        self, tower: TowerConfig, grid: int, patch: int, length: int, out: int, scrambled: bool = False
    ) -> None:
        super().__init__(tower, grid * grid, length)
        self.scrambled = scrambled
        self.patch_embed = nn.Conv2d(3, tower.width, patch, stride=patch)
        self.latents = _table(length, tower.width)
        self.out = nn.Linear(tower.width, out)

    def forward(self, pictures: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k d"]:
        """Latents of pictures in [0, 1]."""
        places = rearrange(self.patch_embed(pictures), "b w y x -> b (y x) w")
        read = self.mix(places, self.latents.expand(len(places), -1, -1))
        read = self.ln_post(read[:, 1 + self.places :])
        if self.scrambled:
            read = read.reshape(len(read), read.shape[2], read.shape[1]).mT
        return self.out(read)


class MaskedPlacesDecoder(Tower):
    """Any first k' of k latents → features of every place; what is not given is not in the sequence.

    Args:
        tower: sizes of the transformer.
        grid: places a side.
        length: latents at most.
        channels: of a latent.
    """

    def __init__(self, tower: TowerConfig, grid: int, length: int, channels: int) -> None:
        super().__init__(tower, grid * grid, length)
        self.embed = nn.Linear(channels, tower.width)
        self.mask_token = nn.Parameter(_table(1, tower.width)[None])

    def forward(
        self, latents: Float[Tensor, "b k d"], kept: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b n w"]:
        """Features of places; where `kept` is given, every sample reads its own first latents alone."""
        allowed = None
        if kept is not None:
            rank = torch.arange(latents.shape[1], device=latents.device)
            always = torch.ones(len(latents), 1 + self.places, dtype=torch.bool, device=latents.device)
            allowed = torch.cat([always, rank < kept[:, None]], 1)[:, None, None]
        places = self.mask_token.expand(len(latents), self.places, -1)
        painted = self.mix(places, self.embed(latents), allowed)
        return self.ln_post(painted[:, 1 : 1 + self.places])


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width) * width**-0.5)
