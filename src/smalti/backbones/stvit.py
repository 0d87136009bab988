"""STViT as a DeiT: after a few plain blocks, 16 semantic tokens are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.cross import CrossBlock
from smalti.nn.transformer import Block
from smalti.registry import Official, Paper, system

POOLINGS = ("max", "mean", "masked")


@dataclass(frozen=True)
class STViTConfig:
    """A DeiT without class token, and where and how its tokens are made few.

    Attributes:
        dim: channels.
        heads: that divide them.
        depth: blocks in all, those that make semantic tokens included.
        base: plain blocks before.
        clustering: blocks that make semantic tokens.
        side: semantic tokens a side.
        pooling: of the first centres: "max", "mean", or "masked": means weighted by predicted masks.
        offset: every cell's place is moved, by at most half of its size, to where it predicts.
        global_centres: learned ones are added to the queries of the second clustering block.
        recover: a last block in which image tokens read the semantic ones, for dense tasks (STViT-R).
        image_size: height and width that positions were made for; others get them resized.
        patch: pixels a side.
        classes: of the head.
        drop_path: of the last block, falling linearly to 0 at the first.
    """

    dim: int = 384
    heads: int = 6
    depth: int = 12
    base: int = 4
    clustering: int = 2
    side: int = 4
    pooling: Literal["max", "mean", "masked"] = "masked"
    offset: bool = False
    global_centres: bool = True
    recover: bool = False
    image_size: int = 224
    patch: int = 16
    classes: int = 1000
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"no pooling {self.pooling!r}: choose one of {', '.join(POOLINGS)}")
        if self.clustering < 1 or self.base + self.clustering > self.depth:
            raise ConfigError(
                f"{self.base} plain and {self.clustering} clustering blocks do not fit into {self.depth}"
            )


class SpatialCentres(nn.Module):
    """First centres: one for every cell of the map, pooled from it.

    ```
    map [b h w d] ─► cells (their places moved by predicted offsets) ─► masks ─► means [b side² d]
    ```
    Args:
        dim: channels.
        side: cells a side.
        pooling: "max", "mean" or "masked".
        offset: move the cells.
    """

    def __init__(self, dim: int, side: int, pooling: str = "masked", offset: bool = False) -> None:
        super().__init__()
        self.side, self.pooling = side, pooling
        self.mask = nn.Linear(dim, 1) if pooling == "masked" else None
        self.offset = nn.Linear(dim, 2) if offset else None
        if self.offset is not None:  # cells begin where they are
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)

    def forward(self, maps: Float[Tensor, "b h w d"]) -> Float[Tensor, "b m d"]:
        """Centres in raster order."""
        x = rearrange(maps, "b h w d -> b d h w")
        if self.offset is not None:
            x = self._moved(x)
        if self.pooling == "max":
            pooled = F.adaptive_max_pool2d(x, self.side)
        elif self.mask is None:
            pooled = F.adaptive_avg_pool2d(x, self.side)
        else:
            mask = self.mask(rearrange(x, "b d h w -> b h w d")).squeeze(-1)[:, None]
            mask = (mask - mask.amax((2, 3), keepdim=True)).exp()
            total = F.adaptive_avg_pool2d(mask, self.side).clamp(min=1e-12)
            pooled = F.adaptive_avg_pool2d(x * mask, self.side) / total
        return rearrange(pooled, "b d h w -> b (h w) d")

    def _moved(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """The map, sampled where each cell says."""
        assert self.offset is not None  # the caller asked
        height, width = x.shape[2:]
        means = rearrange(F.adaptive_avg_pool2d(x, self.side), "b d h w -> b h w d")
        offset = rearrange(self.offset(means).tanh() / self.side, "b h w two -> b two h w")
        offset = F.interpolate(offset, (height, width), mode="nearest")
        rows = (2 * torch.arange(height, device=x.device) + 1) / height - 1
        columns = (2 * torch.arange(width, device=x.device) + 1) / width - 1
        place = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], -1)
        place = place + rearrange(offset, "b two h w -> b h w two")
        return F.grid_sample(x, place.to(x.dtype), padding_mode="border", align_corners=False)


@system(
    "stvit",
    room="backbones",
    paper=Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View",
        2023,
        "https://arxiv.org/abs/2303.08685",
    ),
    official=Official("changsn/STViT-R", "MIT"),
    presets={
        "deit-s": STViTConfig(),
        "deit-t": STViTConfig(dim=192, heads=3),
        "deit-b": STViTConfig(dim=768, heads=12),
    },
    tags=("learned", "semantic-tokens", "image", "video"),
    status="reconstruction",
)
class STViT(nn.Module):
    """STViT (Chang et al., 2023): plain blocks on 196 tokens, two that cluster, plain blocks on 16.

    ```
    pixels [b 3 t h w] ─► patches + positions ─► base blocks ─► X [bt n d] ─► cells ─► P [bt 16 d]
    P reads [P; X] ─► S ─► S + G reads [S; X] ─► plain blocks on S ─► norm ─► mean ─► head ─► logits [b k]
                                             X reads S (`recover`) ─► dense tokens [b t·h·w/16² d]
    ```
    Every frame of a clip gets its own semantic tokens; logits are means over frames. The authors released no
    code of this form. Left open by the paper and chosen here: masks are a linear layer and a softmax over the
    cell, offsets a linear layer of its mean; global centres enter the second clustering block alone.

    Raises:
        ConfigError: dense tokens of a model built without `recover`, or a picture that is not whole patches.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: STViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or STViTConfig()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        dim, heads = config.dim, config.heads
        side = config.image_size // config.patch
        self.patch_embed = nn.Conv2d(3, dim, config.patch, config.patch)
        self.positions = nn.Parameter(torch.zeros(1, dim, side, side))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        first, last = config.base, config.base + config.clustering
        self.base = nn.ModuleList(Block(dim, heads, drop_path=rate) for rate in rates[:first])
        self.centres = SpatialCentres(dim, config.side, config.pooling, config.offset)
        self.clustering = nn.ModuleList(CrossBlock(dim, heads, drop_path=r) for r in rates[first:last])
        self.rest = nn.ModuleList(Block(dim, heads, drop_path=rate) for rate in rates[last:])
        self.global_centres = nn.Parameter(torch.zeros(1, config.side**2, dim), config.global_centres)
        if config.global_centres:
            nn.init.trunc_normal_(self.global_centres, std=0.02)
        self.recovery = CrossBlock(dim, heads) if config.recover else None
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.head = nn.Linear(dim, config.classes)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def tokens(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "bt h2 w2 d"]:
        """Image tokens after the base blocks, a map for every frame."""
        if pixels.shape[-1] % self.config.patch or pixels.shape[-2] % self.config.patch:
            raise ConfigError(
                f"a picture of {pixels.shape[-2]} × {pixels.shape[-1]} is not whole patches of "
                f"{self.config.patch}: pad it"
            )
        frames = (rearrange(pixels, "b c t h w -> (b t) c h w") - self.mean) / self.std
        x = self.patch_embed(frames)
        positions = self.positions
        if positions.shape[2:] != x.shape[2:]:
            positions = F.interpolate(positions, x.shape[2:], mode="bicubic", align_corners=False)
        size = x.shape[2:]
        x = rearrange(x + positions, "b d h w -> b (h w) d")
        for block in self.base:
            x = block(x)
        return x.unflatten(1, size)

    def semantic(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b m d"]:
        """Semantic tokens of a map of image tokens."""
        s, flat = self.centres(x), x.flatten(1, 2)
        for number, block in enumerate(self.clustering):
            query = s + self.global_centres if number == 1 else s
            s = block(query, torch.cat([s, flat], 1))
        return s

    def recover(self, x: Float[Tensor, "b h w d"], s: Float[Tensor, "b m d"]) -> Float[Tensor, "b h w d"]:
        """Image tokens again, told what the semantic ones have become."""
        if self.recovery is None:
            raise ConfigError("this model has no recovery: build it with recover=True")
        return self.recovery(x.flatten(1, 2), s).view_as(x)

    def features(self, pixels: Float[Tensor, "b 3 t h w"], dense: bool = False) -> Float[Tensor, "b n d"]:
        """Normed tokens: the semantic ones of all frames, or with `dense` one for every patch."""
        x = self.tokens(pixels)
        s = self.semantic(x)
        for block in self.rest:
            s = block(s)
        out = self.recover(x, s).flatten(1, 2) if dense else s
        return rearrange(self.norm(out), "(b t) n d -> b (t n) d", b=len(pixels))

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.head(self.features(pixels).mean(1))
