"""EVAD's parts: the encoder that prunes all but the keyframe, and the decoder of actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn import attention
from smalti.nn.sparse_rcnn import run
from smalti.nn.transformer import Block
from smalti.reducers.base import Context
from smalti.reducers.evad import EVAD as Pruning
from smalti.reducers.evad import EVADConfig as PruningConfig

RATES = tuple(0.7 if block in (3, 6, 9) else 1.0 for block in range(12))


@dataclass(frozen=True)
class EVADConfig:
    """An encoder that prunes, a detector on its keyframe and a decoder of actions.

    Attributes:
        dim: channels of the encoder.
        heads: that divide them.
        keep_rates: share of tokens that every block leaves; their number is the depth.
        enhanced_weight: of the keyframe's queries when scores are taken.
        patch: pixels a side.
        tubelet: frames of a patch.
        table: rows and columns of the table of positions; other sizes resize it.
        mlp_ratio: hidden channels of the MLPs, as a factor.
        layer_scale: start of the encoder's LayerScales; none when not given.
        drop_path: of the last block, falling linearly to 0 at the first.
        levels: blocks (from 0) whose keyframe tokens become maps at 1/4, 1/8, 1/16 and 1/32.
        proposals: boxes to move.
        steps: of moving them.
        detector_dim: channels of the detector.
        classes: of actions, any number of which one person does.
        decoder_dim: channels of the decoder.
        decoder_heads: that divide them.
        decoder_depth: blocks, each of which gives logits.
        action_dim: channels of the layer before the logits.
        extension: of a person's box to each of width and height, for the actions.
        sorted: kept tokens get their own positions in the decoder; else, as the official code does and its
            weights expect, tokens in score order get positions in rising order.
        threshold: of a person's score.
    """

    dim: int = 768
    heads: int = 12
    keep_rates: tuple[float, ...] = RATES
    enhanced_weight: float = 1.0
    patch: int = 16
    tubelet: int = 2
    table: tuple[int, int] = (14, 14)
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    drop_path: float = 0.1
    levels: tuple[int, int, int, int] = (2, 5, 8, 11)
    proposals: int = 100
    steps: int = 6
    detector_dim: int = 256
    classes: int = 80
    decoder_dim: int = 384
    decoder_heads: int = 6
    decoder_depth: int = 6
    action_dim: int = 2048
    extension: tuple[float, float] = (0.4, 0.2)
    sorted: bool = False
    threshold: float = 0.7

    def __post_init__(self) -> None:
        if not self.keep_rates or not all(0 < rate <= 1 for rate in self.keep_rates):
            raise ConfigError(f"keep_rates must lie in (0, 1], one for every block, not {self.keep_rates}")


LARGE = EVADConfig(
    dim=1024,
    heads=16,
    keep_rates=tuple(0.7 if block in (6, 12, 18) else 1.0 for block in range(24)),
    levels=(5, 11, 17, 23),
    decoder_dim=512,
    decoder_heads=8,
    decoder_depth=12,
)


def positions(grid: tuple[int, int, int], dim: int, table: tuple[int, int]) -> Float[Tensor, "1 n d"]:
    """Sines and cosines by a token's number in a table of (t, *table), each slice resized to the grid."""
    count = grid[0] * table[0] * table[1]
    rate = 10000 ** (2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim)
    angle = torch.arange(count, dtype=torch.float64)[:, None] / rate
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    values = angle.float()
    if table != grid[1:]:
        slices = rearrange(values, "(t h w) d -> t d h w", h=table[0], w=table[1])
        slices = F.interpolate(slices, grid[1:], mode="bicubic", align_corners=False)
        values = rearrange(slices, "t d h w -> (t h w) d")
    return values[None]


Step = tuple[Tensor, Tensor, tuple[int, int, int]]


class Encoded(NamedTuple):
    """What the encoder leaves of a clip.

    Attributes:
        tokens: the keyframe's first [b m d].
        index: of the others, among all but the keyframe's [b k].
        grid: (t, h, w) of the clip.
        maps: the keyframe's, after some blocks [b d h w].
    """

    tokens: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    grid: tuple[int, int, int]
    maps: list[Tensor]


class Encoder(nn.Module):
    """VideoMAE's transformer with pruning between attention and MLP of some blocks.

    ```
    pixels [b 3 t h w] ─► patches + positions ─► keyframe (slice t // 2) to the front ─► blocks ─► norm
    ```
    """

    def __init__(self, config: EVADConfig) -> None:
        super().__init__()
        self.config = config
        size = (config.tubelet, config.patch, config.patch)
        self.patch_embed = nn.Conv3d(3, config.dim, size, size)
        rates = torch.linspace(0, config.drop_path, len(config.keep_rates)).tolist()
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio, layer_scale=config.layer_scale, drop_path=rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(config.dim, 1e-6)
        self.pruning = Pruning(PruningConfig(enhanced_weight=config.enhanced_weight))

    def steps(
        self, pixels: Float[Tensor, "b 3 t h w"]
    ) -> Iterator[tuple[Tensor, Tensor, tuple[int, int, int]]]:
        """Tokens, index of those that are not the keyframe's, and the grid, after every block."""
        x = self.patch_embed(pixels)
        grid = (x.shape[2], x.shape[3], x.shape[4])
        x = rearrange(x, "b d t h w -> b (t h w) d")
        x = x + positions(grid, x.shape[-1], self.config.table).to(x)
        key, area = grid[0] // 2, grid[1] * grid[2]
        front = slice(key * area, (key + 1) * area)
        x = torch.cat([x[:, front], x[:, : front.start], x[:, front.stop :]], 1)
        index = torch.arange((grid[0] - 1) * area, device=x.device).expand(len(x), -1)
        for block, rate in zip(self.blocks, self.config.keep_rates, strict=True):
            if rate < 1:
                x, index = self._pruned(block, x, index, area, math.ceil(rate * x.shape[1]))
            else:
                x = block(x)
            yield x, index, grid

    def _pruned(
        self, block: Any, x: Float[Tensor, "b n d"], index: Int[Tensor, "b k"], area: int, count: int
    ) -> tuple[Tensor, Tensor]:
        q, k, _ = block.attn.split(block.norm1(x))
        scale = q.shape[-1] ** -0.5
        context = Context(
            protected=area,
            attention=lambda queries: attention.received(q, k, scale, queries=queries),
            attention_map=lambda: attention.attention_map(q, k, scale),
        )
        reduction = self.pruning.reduce(x, context, max(count, area))
        kept = reduction.apply(block.attend(x))
        place = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)[None, :, None]
        where = reduction.apply(place.expand(len(x), -1, -1)).squeeze(-1).long()
        return block.feed(kept), index.gather(1, where[:, area:] - area)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Encoded:
        """What is left of a clip of normalised pixels."""
        maps, last = [], None
        for number, last in enumerate(self.steps(pixels)):
            if number in self.config.levels:
                x, _, (_, h, w) = last
                maps.append(rearrange(x[:, : h * w], "b (h w) d -> b d h w", h=h))
        assert last is not None  # the configuration has a block at least
        return Encoded(self.norm(last[0]), last[1], last[2], maps)


class ActionBlock(Block):
    """A block of the decoder with logits of its own."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, hidden: int, classes: int, drop_path: float
    ) -> None:
        super().__init__(dim, heads, mlp_ratio, drop_path=drop_path)
        self.act_module = nn.ModuleList((nn.Linear(dim, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU()))
        self.action_logits = nn.Linear(hidden, classes)

    def classify(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p k"]:
        """Logits of actions from the features of actors."""
        return self.action_logits(run(self.act_module, x))


class Decoder(nn.Module):
    """Context refinement: actors and all visible tokens look at each other, and every block classifies."""

    def __init__(self, config: EVADConfig) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path, config.decoder_depth).tolist()
        self.blocks = nn.ModuleList(
            ActionBlock(
                config.decoder_dim,
                config.decoder_heads,
                config.mlp_ratio,
                config.action_dim,
                config.classes,
                rate,
            )
            for rate in rates
        )

    def forward(self, x: Float[Tensor, "b n d"], actors: int) -> list[Float[Tensor, "b p k"]]:
        """Logits after every block of the last `actors` tokens."""
        logits = []
        for block in self.blocks:
            x = block(x)
            logits.append(block.classify(x[:, -actors:]))  # pyright: ignore[reportCallIssue]
        return logits
