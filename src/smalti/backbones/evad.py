"""EVAD: people and what they do in a clip, by a video transformer that prunes all but the keyframe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn import attention, boxes
from smalti.nn.clustering import take
from smalti.nn.sparse_rcnn import FeaturePyramid, Proposals, StepHead, run
from smalti.nn.transformer import Block
from smalti.reducers.base import Context
from smalti.reducers.evad import EVAD as Pruning
from smalti.reducers.evad import EVADConfig as PruningConfig
from smalti.reducers.evad import unprune
from smalti.registry import Official, Paper, replace, system

RATES = (1, 1, 1, 0.7, 1, 1, 0.7, 1, 1, 0.7, 1, 1)


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
    keep_rates=tuple(0.7 if block in (6, 12, 18) else 1 for block in range(24)),
    levels=(5, 11, 17, 23),
    decoder_dim=512,
    decoder_heads=8,
    decoder_depth=12,
)


def positions(grid: tuple[int, int, int], dim: int, table: tuple[int, int]) -> Float[Tensor, "1 n d"]:
    """Sines and cosines by the number of a token in a table of (t, *table), each slice resized to the grid."""
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


class Encoded(NamedTuple):
    """What the encoder leaves of a clip: tokens [b m d], the keyframe's first; `index` [b k] of the others among
    all but the keyframe's; the clip's grid; the keyframe's maps after some blocks.
    """

    tokens: Tensor
    index: Tensor
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
        maps = []
        x, index, grid = pixels, pixels, (0, 0, 0)
        for number, (x, index, grid) in enumerate(self.steps(pixels)):
            if number in self.config.levels:
                key = x[:, : grid[1] * grid[2]]
                maps.append(rearrange(key, "b (h w) d -> b d h w", h=grid[1]))
        return Encoded(self.norm(x), index, grid, maps)


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


class Detections(NamedTuple):
    """People and actions after every step and block, the last of which count: `person` logits [b p 2] (person,
    none), `boxes` [b p 4] corners in pixels, `actions` logits [b p k].
    """

    person: list[Tensor]
    boxes: list[Tensor]
    actions: list[Tensor]


@system(
    "evad",
    room="backbones",
    paper=Paper(
        "Efficient Video Action Detection with Token Dropout and Context Refinement",
        2023,
        "https://arxiv.org/abs/2304.08451",
    ),
    official=Official("MCG-NJU/EVAD", "CC-BY-NC-4.0"),
    presets={
        "vit-b-0.7": EVADConfig(),
        "vit-b-1.0": EVADConfig(keep_rates=(1,) * 12),
        "vit-b-0.6": EVADConfig(
            keep_rates=tuple(0.6 if rate < 1 else 1 for rate in RATES), enhanced_weight=4.0
        ),
        "vit-l-0.7": LARGE,
    },
    tags=("prune", "attention", "detection", "video"),
)
class EVAD(nn.Module):
    """EVAD (Chen et al., 2023): detect people on the keyframe, classify their actions from what pruning left.

    ```
    pixels [b 3 t h w] ─► encoder ─┬─► keyframe's maps ─► pyramid ─► 6 steps of Sparse R-CNN ─► boxes, persons
                                   ├─► all slots filled ─► features in widened boxes ─► actors ─┐
                                   └─► visible tokens ──────────────────────────────────────────┴─► decoder ─► actions
    ```
    Clips of an even number of slices, the keyframe in the middle; officially 16 frames, short side 288, padded
    to multiples of 32. The losses are in `smalti.nn.set_matching`.

    Raises:
        ConfigError: a clip that is not whole tubelets, or whose number of slices is odd.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EVADConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or EVADConfig()
        self.register_buffer("mean", torch.full((3, 1, 1, 1), 0.45), persistent=False)
        self.register_buffer("std", torch.full((3, 1, 1, 1), 0.225), persistent=False)
        self.encoder = Encoder(config)
        self.pyramid = FeaturePyramid(config.dim, config.detector_dim)
        self.proposals = Proposals(config.proposals, config.detector_dim)
        self.heads = nn.ModuleList(StepHead(config.detector_dim) for _ in range(config.steps))
        self.narrow = nn.Linear(config.dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = Decoder(config)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Detections:
        """All steps' boxes and all blocks' actions."""
        slices = pixels.shape[2] // self.config.tubelet
        if pixels.shape[2] % self.config.tubelet or slices % 2:
            raise ConfigError(
                f"{pixels.shape[2]} frames are not an even number of tubelets of {self.config.tubelet}"
            )
        height, width = pixels.shape[3:]
        side = 2 * self.config.patch
        x = F.pad((pixels - self.mean) / self.std, (0, -width % side, 0, -height % side))
        size = pixels.new_tensor([width, height]).expand(len(pixels), -1)
        encoded = self.encoder(x)
        person, found = self._locate(encoded.maps, size)
        actions = self._classify(encoded, boxes.extended(found[-1].detach(), self.config.extension, size))
        return Detections(person, found, actions)

    def _locate(self, maps: list[Tensor], size: Float[Tensor, "b 2"]) -> tuple[list[Tensor], list[Tensor]]:
        scaled = [
            F.interpolate(m, scale_factor=factor, mode="nearest")
            for m, factor in zip(maps, (4.0, 2.0, 1.0, 0.5), strict=True)
        ]
        levels = self.pyramid(scaled)
        places, features = self.proposals(size)
        person, found = [], []
        for head in self.heads:
            logits, places, features = head(levels, places, features)
            person.append(logits)
            found.append(places)
            places = places.detach()
        return person, found

    def _classify(self, encoded: Encoded, places: Float[Tensor, "b p 4"]) -> list[Tensor]:
        visible, (t, h, w) = self.narrow(encoded.tokens), encoded.grid
        area, sorted_ = h * w, self.config.sorted
        position = positions(encoded.grid, visible.shape[-1], self.config.table).to(visible)
        full = unprune(visible, encoded.index, self.mask_token, encoded.grid, sorted=sorted_) + position
        slices = rearrange(full, "b (t h w) d -> b (t d) h w", t=t, h=h)
        seen = boxes.roi_align(slices, places, 1 / self.config.patch)
        actors = reduce(reduce(seen, "b p (t d) i j -> b p t d", "max", t=t), "b p t d -> b p d", "mean")
        front = slice(area * (t // 2), area * (t // 2 + 1))
        others = torch.cat([position[:, : front.start], position[:, front.stop :]], 1).expand(
            len(full), -1, -1
        )
        order = encoded.index if sorted_ else encoded.index.sort(-1).values
        own = torch.cat([position[:, front].expand(len(full), -1, -1), take(others, order)], 1)
        return self.decoder(torch.cat([visible + own, actors], 1), actors.shape[1])

    def detect(self, pixels: Float[Tensor, "b 3 t h w"]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of every clip the boxes, person scores and action scores above the threshold, or all where none is."""
        found = self(pixels)
        score = found.person[-1].softmax(-1)[..., 0]
        size = pixels.new_tensor([pixels.shape[4], pixels.shape[3]]).expand(len(pixels), -1)
        last = (size - 1)[:, None].repeat(1, 1, 2)
        places = torch.minimum(found.boxes[-1].clamp(min=0), last)
        chosen = score >= self.config.threshold
        chosen = chosen | ~chosen.any(-1, keepdim=True)
        action = found.actions[-1].sigmoid()
        return [(p[c], s[c], a[c]) for p, s, a, c in zip(places, score, action, chosen, strict=True)]

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> EVAD:
        """The model of an official checkpoint; sizes that its tensors tell are read from them.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = official_keys(state.get("model_state", state))  # pyright: ignore[reportArgumentType]
        dim = ours["encoder.patch_embed.weight"].shape[0]
        told: dict[str, Any] = {
            "proposals": ours["proposals.boxes"].shape[0],
            "classes": ours["decoder.blocks.0.action_logits.bias"].shape[0],
            "layer_scale": 0.0 if "encoder.blocks.0.ls1.gamma" in ours else None,
        }
        model = cls(replace(LARGE if dim == LARGE.dim else EVADConfig(), told | config))
        try:
            model.load_state_dict(ours)
        except RuntimeError as error:
            raise ConfigError(f"this is no checkpoint of {model.config}: {error}") from error
        return model


RENAMES = (
    (r"^det_head\.s0_headseries\.", "heads."),
    (r"^det_head\.encoder_to_decoder\.", "narrow."),
    (r"^det_head\.", ""),
    (r"^(patch_embed\.|blocks\.|norm\.)", r"encoder.\1"),
    (r"patch_embed\.proj\.", "patch_embed."),
    (r"^init_proposal_(features|boxes)\.weight$", r"proposals.\1"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
)


def official_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint, or its encoder or decoder, under the names of our modules; queries' and values' biases as one."""
    ours = {}
    for key, value in state.items():
        if key.startswith("criterion.") or key.endswith(".v_bias"):
            continue
        if key.endswith(".q_bias"):
            other = state[key.replace("q_bias", "v_bias")]
            key, value = key.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros_like(value), other])
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        level = re.match(r"fpn_(lateral|output)(\d)\.(.*)", key)
        if level:
            key = f"pyramid.{level[1]}.{int(level[2]) - 2}.{level[3]}"
        ours[key] = value
    return ours
