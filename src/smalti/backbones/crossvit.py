"""CrossViT: patches of two sizes in two transformers, which ask each other through their class tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.backbones.crossvit_fusion import EPS, CrossAttentionFusion
from smalti.backbones.picture_frames import check_source, frames_of, over_time, resample_positions
from smalti.errors import ConfigError, MediaError
from smalti.nn.strict_loading import load_strictly, told
from smalti.nn.transformer import Block
from smalti.registry import Official, Paper, system
from smalti.tokens import Tokens

SECOND_STEP = {
    12: (3, 3, 0),
    16: (3, 2, 1),
}  # patch → kernel, stride, padding of the stem's second convolution
THIRD_STEP = {12: (3, 1, 1), 16: (3, 2, 1)}


@dataclass(frozen=True)
class CrossViTConfig:
    """Of every branch, the fine one first.

    Attributes:
        dims: channels.
        depths: for every multi-scale block: blocks of every branch, then how often the class tokens ask (0
            is one time, in the official layout of weights without a number).
        heads: of the attention.
        mlp_ratios: hidden channels of the MLPs, as a factor.
        patches: pixels of a patch's side.
        sizes: side of the picture that a branch looks at.
        conv_stem: three convolutions instead of one, as in the models marked with a dagger.
        fit: of a picture of another size: "resize" to the branch's square (official); "crop" its middle
            where it is large enough; "native" keeps its size and proportions, and positions are resampled.
        qk_scale: of the class tokens' questions; one over the root of a head's channels when not given.
        qkv_bias: of all attention.
        drop_path: of the last block, rising linearly from 0 at the first.
        classes: of the heads; 0 for none.
    """

    dims: tuple[int, ...] = (192, 384)
    depths: tuple[tuple[int, ...], ...] = ((1, 4, 0),) * 3
    heads: tuple[int, ...] = (6, 6)
    mlp_ratios: tuple[float, ...] = (4.0, 4.0)
    patches: tuple[int, ...] = (12, 16)
    sizes: tuple[int, ...] = (240, 224)
    conv_stem: bool = False
    fit: Literal["resize", "crop", "native"] = "resize"
    qk_scale: float | None = None
    qkv_bias: bool = True
    drop_path: float = 0.1
    classes: int = 1000

    def __post_init__(self) -> None:
        count = len(self.dims)
        for name in ("heads", "mlp_ratios", "patches", "sizes"):
            if len(getattr(self, name)) != count:
                raise ConfigError(f"{name} {getattr(self, name)} must be {count}, one for every branch")
        if count < 2 or any(len(depth) != count + 1 for depth in self.depths):
            raise ConfigError(
                f"depths {self.depths} must hold {count + 1} numbers each, for at least two branches"
            )
        for size, patch in zip(self.sizes, self.patches, strict=True):
            if size % patch or size < patch:
                raise ConfigError(f"a side of {size} pixels cannot be cut into patches of {patch}")
            if self.conv_stem and patch not in SECOND_STEP:
                raise ConfigError(f"the convolutional stem makes patches of 12 or 16 pixels, not of {patch}")


def _at_224(
    dims: tuple[int, int], depth: int, heads: int, ratio: float, dagger: bool = False
) -> CrossViTConfig:
    return CrossViTConfig(dims, ((1, depth, 0),) * 3, (heads,) * 2, (ratio,) * 2, conv_stem=dagger)


def _at_384(dims: tuple[int, int], depth: int, heads: int) -> CrossViTConfig:
    depths = ((1, depth, 0),) * 3
    return CrossViTConfig(dims, depths, (heads,) * 2, (3.0,) * 2, sizes=(408, 384), conv_stem=True)


class Patches(nn.Module):
    """Pictures [b 3 h w] → patches [b d h/p w/p], by one convolution or three."""

    def __init__(self, dim: int, patch: int, conv_stem: bool) -> None:
        super().__init__()
        if not conv_stem:
            self.proj = nn.Conv2d(3, dim, patch, patch)
            return
        self.proj = nn.Sequential(
            nn.Conv2d(3, dim // 4, 7, 4, 3),
            nn.ReLU(),
            nn.Conv2d(dim // 4, dim // 2, *SECOND_STEP[patch]),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, *THIRD_STEP[patch]),
        )

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d y x"]:
        """A map of patches."""
        return self.proj(frames)


class MultiScaleBlock(CrossAttentionFusion):
    """Blocks of every branch by itself, then the exchange of class tokens.

    Args:
        config: of the model.
        depth: blocks of every branch, then layers of the exchange.
        rates: of dropped paths, one for every block of the deepest branch.
    """

    def __init__(self, config: CrossViTConfig, depth: Sequence[int], rates: Sequence[float]) -> None:
        last = rates[-1] if rates else 0.0
        super().__init__(config.dims, config.heads, depth[-1], config.qkv_bias, config.qk_scale, last)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(d, h, r, config.qkv_bias, EPS, drop_path=rates[i]) for i in range(count)))
            for d, h, r, count in zip(config.dims, config.heads, config.mlp_ratios, depth[:-1], strict=True)
        )

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Sequences [b 1+n_i d_i] of all branches."""
        return super().forward([block(x) for block, x in zip(self.blocks, branches, strict=True)])


class Embedded(NamedTuple):
    """Sequences of all branches [b 1+n_i d_i], class token first, and grids of their patches."""

    branches: list[Tensor]
    grids: list[tuple[int, int]]


@system(
    "crossvit",
    room="backbones",
    paper=Paper(
        "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification",
        2021,
        "https://arxiv.org/abs/2103.14899",
    ),
    official=Official("IBM/CrossViT", "Apache-2.0"),
    presets={
        "crossvit_small_224": CrossViTConfig(),
        "crossvit_tiny_224": _at_224((96, 192), 4, 3, 4.0),
        "crossvit_base_224": _at_224((384, 768), 4, 12, 4.0),
        "crossvit_9_224": _at_224((128, 256), 3, 4, 3.0),
        "crossvit_15_224": _at_224((192, 384), 5, 6, 3.0),
        "crossvit_18_224": _at_224((224, 448), 6, 7, 3.0),
        "crossvit_9_dagger_224": _at_224((128, 256), 3, 4, 3.0, dagger=True),
        "crossvit_15_dagger_224": _at_224((192, 384), 5, 6, 3.0, dagger=True),
        "crossvit_18_dagger_224": _at_224((224, 448), 6, 7, 3.0, dagger=True),
        "crossvit_15_dagger_384": _at_384((192, 384), 5, 6),
        "crossvit_18_dagger_384": _at_384((224, 448), 6, 7),
    },
    tags=("image", "multi-scale", "cross-attention", "classification"),
)
class CrossViT(Backbone):
    """CrossViT (Chen et al., 2021): two token streams of different patches, fused through class tokens.

    ```
                     ┌─ patches 12 of 240 ─► + class, positions ─┐    multi-   ┌─► norm ─► head ─┐
    pixels ─► fit ───┤                                           ├──► scale ──►┤                 ├─► mean
    [b 3 t h w]      └─ patches 16 of 224 ─► + class, positions ─┘    blocks   └─► norm ─► head ─┘
    ```
    Features: `tokens` and `grid` of the coarse branch, class token first; `pooled` both class tokens in a
    row; `pyramid` the patches of both, fine first. Frames of a clip are looked at one by one; `pooled` is
    their mean.
    Official training: 300 epochs at 240 pixels, AdamW, drop path 0.1. Deviations: pictures that are not
    square are resized as well (the official code looks at the height alone and refuses them); "crop" and
    "native" are ours to choose; a branch may have no blocks; class tokens ask without keys and values of
    the patches, which gives the same numbers for fewer products.

    Raises:
        MediaError: pixels that mean nothing, or a picture smaller than a patch in "native".
    """

    def __init__(self, config: CrossViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or CrossViTConfig()
        self.sides = [size // patch for size, patch in zip(config.sizes, config.patches, strict=True)]
        self.patch_embed = nn.ModuleList(
            Patches(dim, patch, config.conv_stem)
            for dim, patch in zip(config.dims, config.patches, strict=True)
        )
        self.pos_embed = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1 + side**2, dim))
            for side, dim in zip(self.sides, config.dims, strict=True)
        )
        self.cls_token = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, dim)) for dim in config.dims)
        counts = [max(depth[:-1]) + depth[-1] for depth in config.depths]
        rates = torch.linspace(0, config.drop_path, sum(counts), device="cpu")
        self.blocks = nn.ModuleList(
            MultiScaleBlock(config, depth, part.tolist())
            for depth, part in zip(config.depths, rates.split(counts), strict=True)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(dim, EPS) for dim in config.dims)
        self.head = nn.ModuleList(
            nn.Linear(dim, config.classes) if config.classes else nn.Identity() for dim in config.dims
        )
        for parameter in (*self.pos_embed, *self.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.apply(_initialise)

    def fitted(self, frames: Float[Tensor, "b 3 h w"], branch: int) -> Float[Tensor, "b 3 y x"]:
        """Pictures as a branch looks at them."""
        config, size = self.config, tuple(frames.shape[-2:])
        wanted = (config.sizes[branch],) * 2
        if config.fit == "native":
            patch, share = config.patches[branch], config.sizes[branch] / config.sizes[0]
            wanted = tuple(round(side * share / patch) * patch for side in size)
            if 0 in wanted:
                raise MediaError(f"a picture of {size[0]} × {size[1]} is smaller than a patch of {patch}")
        if size == wanted:
            return frames
        if config.fit == "crop" and all(have >= want for have, want in zip(size, wanted, strict=True)):
            top, left = (round((have - want) / 2) for have, want in zip(size, wanted, strict=True))
            return frames[..., top : top + wanted[0], left : left + wanted[1]]
        return F.interpolate(frames, wanted, mode="bicubic", align_corners=False)

    def embed(self, frames: Float[Tensor, "b 3 h w"]) -> Embedded:
        """Normalised pictures → tokens of all branches with their positions."""
        branches, grids = [], []
        for number, patches in enumerate(self.patch_embed):
            maps = patches(self.fitted(frames, number))
            grid, side, table = (*maps.shape[-2:],), self.sides[number], self.pos_embed[number]
            places = resample_positions(table[:, 1:], (side, side), grid)
            first = (self.cls_token[number] + table[:, :1]).expand(len(maps), -1, -1)
            branches.append(torch.cat([first, rearrange(maps, "b d h w -> b (h w) d") + places], 1))
            grids.append(grid)
        return Embedded(branches, grids)

    def encode(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        x, grids = self.embed(frames)
        for block in self.blocks:
            x = block(x)
        x = [norm(tokens) for norm, tokens in zip(self.norm, x, strict=True)]
        maps = (
            rearrange(tokens[:, 1:], "b (h w) d -> b d 1 h w", h=grid[0])
            for tokens, grid in zip(x, grids, strict=True)
        )
        pooled = torch.cat([tokens[:, 0] for tokens in x], -1)
        return Features(x[-1], pooled, tuple(maps), prefix=1, grid=(1, *grids[-1]))

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1]."""
        if isinstance(source, Tokens):
            raise ConfigError("CrossViT works on pixels [b 3 t h w], not on tokens")
        check_source(source)
        frames = frames_of(self.normalise(source).to(source.dtype))
        return over_time(self.encode(frames), source.shape[2])

    def logits(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        """Mean of what the heads say of all branches' class tokens."""
        parts = pooled.split(list(self.config.dims), -1)
        return torch.stack([head(part) for head, part in zip(self.head, parts, strict=True)]).mean(0)

    def classify(self, source: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.logits(self.forward(source).pooled)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: tuple[int, ...] | None = None,
        patches: tuple[int, ...] = (12, 16),
        qk_scale: float | None = None,
        fit: Literal["resize", "crop", "native"] = "resize",
    ) -> CrossViT:
        """The model of an official checkpoint, or of timm's; its sizes are read from it.

        Args:
            state: names and tensors.
            heads: of every branch, which a checkpoint does not tell; in all, the last branch's channels over
                64 when not given.
            patches: of every branch.
            qk_scale: of the class tokens' questions, if another than the usual.
            fit: of pictures of another size.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = {
            re.sub(r"^(pos_embed|cls_token)_(\d+)$", r"\1.\2", name): tensor
            for name, tensor in unwrapped(state).items()
        }
        branches = range(len(patches))
        tables = [told(state, f"pos_embed.{branch}") for branch in branches]
        dims = tuple(table.shape[-1] for table in tables)
        first = [f"blocks.0.blocks.{branch}.0.mlp.fc1.weight" for branch in branches]
        config = CrossViTConfig(
            dims=dims,
            depths=tuple(
                (
                    *(counted(state, f"blocks.{block}.blocks.{branch}.") for branch in branches),
                    counted(state, f"blocks.{block}.fusion.0."),
                )
                for block in range(counted(state, "blocks."))
            ),
            heads=heads or (max(dims[-1] // 64, 1),) * len(dims),
            mlp_ratios=tuple(told(state, name).shape[0] / dim for name, dim in zip(first, dims, strict=True)),
            patches=patches,
            sizes=tuple(square_side(table) * patch for table, patch in zip(tables, patches, strict=True)),
            conv_stem="patch_embed.0.proj.0.weight" in state,
            fit=fit,
            qk_scale=qk_scale,
            qkv_bias="blocks.0.fusion.0.attn.wq.bias" in state or "blocks.0.fusion.0.0.attn.wq.bias" in state,
            classes=len(state["head.0.weight"]) if "head.0.weight" in state else 0,
        )
        model = cls(config)
        load_strictly(model, state)
        return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
