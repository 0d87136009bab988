"""A video transformer in two stages: short clips teach all of it, long ones all but its spatial part."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import check_source, resample_positions
from smalti.backbones.vivit_adapter_official import OfficialViViT, picture_weights
from smalti.errors import ConfigError
from smalti.nn.strict_loading import load_strictly
from smalti.nn.transformer import Block
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


@dataclass(frozen=True)
class ViViTAdapterConfig:
    """Attributes:
    dim: channels.
    depth: blocks of the spatial part.
    heads: of its attention.
    temporal_depth: blocks of the temporal part.
    temporal_heads: of its attention.
    mlp_ratio: hidden channels of all MLPs, as a factor.
    patch: pixels of a patch's side.
    tubelet: frames of a patch.
    size: side of the picture that the table of places was made for; others are taken as well.
    frames: that the table of times was made for; others are taken as well.
    pooling: what a sequence becomes: its "class" token, or the "mean" of the others.
    adapter: between both parts: "bottleneck" on a residual path, a plain "mlp", or "none".
    adapter_ratio: channels inside of it, as a factor.
    frozen: the spatial part does not learn.
    gelu: "tanh", as the official code computes it, or "exact", as weights of pictures in torch want it.
    drop_path: of the last temporal block, and of the last spatial one while it learns.
    classes: of every head.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    temporal_depth: int = 4
    temporal_heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    size: int = 224
    frames: int = 32
    pooling: Literal["class", "mean"] = "class"
    adapter: Literal["bottleneck", "mlp", "none"] = "bottleneck"
    adapter_ratio: float = 0.25
    frozen: bool = True
    gelu: Literal["tanh", "exact"] = "tanh"
    drop_path: float = 0.0
    classes: tuple[int, ...] = (400,)

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim % self.temporal_heads:
            raise ConfigError(
                f"{self.heads} and {self.temporal_heads} heads do not divide {self.dim} channels"
            )
        if self.size % self.patch or self.frames % self.tubelet:
            raise ConfigError(
                f"{self.frames} frames of {self.size} pixels cannot be cut into patches of "
                f"{self.tubelet} × {self.patch} × {self.patch}"
            )


def _end_to_end(config: ViViTAdapterConfig) -> ViViTAdapterConfig:
    return replace(config, {"adapter": "none", "frozen": False})


BASE = ViViTAdapterConfig()
LARGE = ViViTAdapterConfig(1024, 24, 16, temporal_heads=16)


class Encoder(nn.Module):
    """Blocks and a norm over a sequence with a class token in front, and a table of positions.

    Args:
        config: of the model.
        depth: blocks.
        heads: of the attention.
        length: places of its table, without the class token.
    """

    def __init__(self, config: ViViTAdapterConfig, depth: int, heads: int, length: int) -> None:
        super().__init__()
        first = config.pooling == "class"
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if first else None
        self.positions = nn.Parameter(0.02 * torch.randn(1, length + first, config.dim))
        rates = torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
        gelu = partial(nn.GELU, "tanh" if config.gelu == "tanh" else "none")
        self.blocks = nn.ModuleList(
            Block(config.dim, heads, config.mlp_ratio, drop_path=rate, activation=gelu) for rate in rates
        )
        self.norm = nn.LayerNorm(config.dim, 1e-6)

    def forward(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b d"]]:
        """Tokens with their positions → all tokens, and what the sequence becomes."""
        if self.class_token is not None:
            first = self.class_token + self.positions[:, :1]
            x = torch.cat([first.expand(len(x), -1, -1).to(x.dtype), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x, x.mean(1) if self.class_token is None else x[:, 0]

    @property
    def table(self) -> Float[Tensor, "1 n d"]:
        """Positions of all but the class token."""
        return self.positions if self.class_token is None else self.positions[:, 1:]


class SpatialPart(nn.Module):
    """A ViT over the tubelets of one step of time, for every step by itself.

    Args:
        config: of the model.
    """

    def __init__(self, config: ViViTAdapterConfig) -> None:
        super().__init__()
        self.side, self.kernel = config.size // config.patch, (config.tubelet, config.patch, config.patch)
        self.tubelets = nn.Conv3d(3, config.dim, self.kernel, self.kernel)
        self.encoder = Encoder(config, config.depth, config.heads, self.side**2)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b s d"]:
        """One token for every step."""
        steps, rows, columns = (-size % part for size, part in zip(video.shape[2:], self.kernel, strict=True))
        if steps:
            video = torch.cat([video, video[:, :, -1:].expand(-1, -1, steps, -1, -1)], 2)
        maps = self.tubelets(F.pad(video.to(self.tubelets.weight.dtype), (0, columns, 0, rows)))
        grid = (maps.shape[3], maps.shape[4])
        places = resample_positions(self.encoder.table, (self.side, self.side), grid)
        tokens = rearrange(maps, "b d s h w -> (b s) (h w) d")
        return self.encoder(tokens + places)[1].unflatten(0, (len(video), -1))


class Adapter(nn.Module):
    """Two layers between the parts, which start as nothing (bottleneck) or as any MLP.

    Args:
        dim: channels.
        hidden: between the layers.
        residual: the input is added.
    """

    def __init__(self, dim: int, hidden: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.down, self.up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        if residual:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, h: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        """Every step by itself."""
        change = self.up(F.gelu(self.down(self.norm(h))))
        return h + change if self.residual else change


@system(
    "vivit-adapter",
    room="backbones",
    paper=Paper(
        "Optimizing ViViT Training: Time and Memory Reduction for Action Recognition",
        2023,
        "https://arxiv.org/abs/2306.04822",
    ),
    official=Official("google-research/scenic", "Apache-2.0"),
    presets={
        "sfa-vivit-b-16x2": BASE,
        "sfa-vivit-b-16x2-64": replace(BASE, {"frames": 64}),
        "sfa-vivit-b-16x2-128": replace(BASE, {"frames": 128}),
        "sfa-vivit-l-16x2": LARGE,
        "sfa-vivit-b-16x2-ssv2": replace(BASE, {"classes": (174,)}),
        "sfa-vivit-b-16x2-epic-kitchens": replace(BASE, {"classes": (97, 300)}),
        "vivit-b-16x2-fe": _end_to_end(BASE),
        "vivit-b-16x2-fe-8": _end_to_end(replace(BASE, {"frames": 8})),
        "vivit-l-16x2-fe": _end_to_end(LARGE),
    },
    tags=("video", "classification", "frozen", "adapter", "two-stage"),
    status="reconstruction",
)
class ViViTAdapter(Backbone):
    """SFA-ViViT (Pan et al., 2023): ViViT's factorised encoder with a frozen spatial part and an adapter.

    ```
    pixels ─► tubelets ─► spatial ViT, step by step ─► h [b s d] ─► adapter ─► temporal ViT ─► class ─► heads
    [b 3 t h w]           frozen: no gradient, no activations kept              + positions
    ```
    Stage 1 trains `vivit-…-fe-8` end to end on 8 frames, its spatial part from a ViT of pictures; stage 2,
    `second_stage` in `vivit_adapter_training.py`, takes all of it over, more frames, and trains the adapter,
    the temporal part and the heads. Tokens.values [b s d] of `spatial` may be given in the place of pixels,
    where nothing in them is random. Heads: one for each number of classes, such as verbs and nouns.
    Official training: SGD 0.9, batch 64, cosine with 2.5 epochs of warm-up; Kinetics 0.1 for 30 epochs,
    Something-Something 0.5 for 35, EPIC-Kitchens 0.5 for 50; 4 × 3 crops at the end.
    Reconstruction: of the paper no code is public; ours are the adapter's inside (norm, a quarter of the
    channels, zero at the start) and that positions in time are interpolated. The base is ViViT's as in its
    code. Deviations: any size and length; clips are continued with their last frame to whole tubelets.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: cached tokens of another width.
    """

    mean = (0.5, 0.5, 0.5)
    deviation = (0.5, 0.5, 0.5)

    def __init__(self, config: ViViTAdapterConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or ViViTAdapterConfig()
        self.spatial = SpatialPart(config)
        self.adapter = (
            None
            if config.adapter == "none"
            else Adapter(config.dim, round(config.dim * config.adapter_ratio), config.adapter == "bottleneck")
        )
        steps = config.frames // config.tubelet
        self.temporal = Encoder(config, config.temporal_depth, config.temporal_heads, steps)
        self.heads = nn.ModuleList(nn.Linear(config.dim, classes) for classes in config.classes)
        for head in self.heads:
            nn.init.zeros_(head.weight)  # pyright: ignore[reportArgumentType]
        self.spatial.requires_grad_(not config.frozen)

    def train(self, mode: bool = True) -> ViViTAdapter:
        """A frozen spatial part drops nothing."""
        super().train(mode)
        if self.config.frozen:
            self.spatial.eval()
        return self

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1], or of cached tokens of the spatial part."""
        if isinstance(source, Tokens):
            if source.values is None or source.values.shape[-1] != self.config.dim:
                raise ConfigError(
                    f"cached tokens are values of {self.config.dim} channels, one for every step"
                )
            return self.over_time(source.values)
        check_source(source)
        return self.over_time(self.look(self.normalise(source)))

    def look(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b s d"]:
        """One token for every step of a normalised video."""
        with torch.no_grad() if self.config.frozen else nullcontext():
            return self.spatial(video)

    def over_time(self, h: Float[Tensor, "b s d"]) -> Features:
        """Features of the steps of a video."""
        h = h if self.adapter is None else self.adapter(h)
        x, pooled = self.temporal(h + resample_times(self.temporal.table, h.shape[1]))
        first = self.temporal.class_token is not None
        return Features(x, pooled, prefix=int(first), grid=(h.shape[1], 1, 1))

    def classify(self, features: Features) -> tuple[Float[Tensor, "b _k"], ...]:
        """Logits of every head."""
        return tuple(head(features.pooled) for head in self.heads)

    @torch.no_grad()
    def cache(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        """What the spatial part says of a video, to be given in its place."""
        check_source(pixels)
        return Tokens(values=self.look(self.normalise(pixels)))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> ViViTAdapter:
        """The model of a factorised ViViT's checkpoint; or its spatial part alone, of a ViT for pictures.

        Args:
            state: scenic's tree with names joined by "/" or ".", or names and tensors of a ViT as timm has
                it, whose patches become the middle frame of the tubelets.
            config: what they do not tell, such as `heads`, `frames`, `adapter` or `frozen` (neither unless
                asked for).

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        whole = {"adapter": "none", "frozen": False}
        if any("SpatialTransformer" in name for name in state):
            official = OfficialViViT(state)
            model = cls(replace(ViViTAdapterConfig(), whole | official.sizes() | config))
            ours = official.renamed()
            table = ours["temporal.positions"]
            ours["temporal.positions"] = resample_table(table, model.temporal)
            own = model.state_dict()
            load_strictly(model, {k: own[k] for k in own if k.startswith("adapter.")} | ours)
            return model
        sizes, weights = picture_weights(state, config.get("tubelet", ViViTAdapterConfig.tubelet))
        model = cls(replace(ViViTAdapterConfig(), whole | {"gelu": "exact"} | sizes | config))
        load_strictly(model.spatial, weights)
        return model


def resample_times(table: Float[Tensor, "1 n d"], steps: int) -> Float[Tensor, "1 m d"]:
    """Positions in time for another number of steps, linear between neighbours."""
    if steps == table.shape[1]:
        return table
    return F.interpolate(table.mT.float(), steps, mode="linear", align_corners=False).mT.to(table.dtype)


def resample_table(table: Float[Tensor, "1 n d"], encoder: Encoder) -> Float[Tensor, "1 m d"]:
    """A whole table, class token in front, for an encoder of another length."""
    steps = encoder.table.shape[1]
    if encoder.class_token is None:
        return resample_times(table, steps)
    return torch.cat([table[:, :1], resample_times(table[:, 1:], steps)], 1)
