"""S2AFormer: convolutions for what is near, strip self-attention for what is far, in four stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import frames_of, over_time
from smalti.errors import ConfigError
from smalti.nn.strip_attention import LocalInteraction, Reduce, StripSelfAttention
from smalti.nn.transformer import DropPath, Mlp
from smalti.registry import Paper, system
from smalti.tokens import Tokens

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class S2AFormerConfig:
    """Of every stage, the finest first.

    Attributes:
        dims: channels.
        depths: hybrid perception blocks.
        heads: of the attention.
        reductions: of the sides of the maps that keys and values come from.
        qk_channels: of queries and keys, a head.
        reduce: by a depthwise convolution ("dwconv") or by pooling ("avg", "max").
        local: with the local interaction module.
        mlp_ratio: hidden channels of the MLPs, as a factor.
        drop_path: of the last block, rising linearly from 0 at the first.
        classes: of the head; 0 for none.
    """

    dims: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    qk_channels: int = 1
    reduce: Reduce = "dwconv"
    local: bool = True
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    classes: int = 1000

    def __post_init__(self) -> None:
        for name in ("dims", "depths", "heads", "reductions"):
            if len(getattr(self, name)) != len(STRIDES):
                raise ConfigError(f"{name} {getattr(self, name)} must be four, one for every stage")


class HybridPerceptionBlock(nn.Module):
    """Four steps, each added to what it was given.

    ```
    maps ─► + depthwise 3×3 ─► + strip attention(norm) ─► + local interaction(norm) ─► + MLP(norm) ─► maps
    ```
    Args:
        dim: channels.
        heads: of the attention.
        ratio: of the maps that keys and values come from.
        qk_channels: of queries and keys, a head.
        reduce: how these maps are made.
        local: with local interaction.
        mlp_ratio: hidden channels of the MLP, as a factor.
        drop_path: share of samples without a step, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ratio: int,
        qk_channels: int = 1,
        reduce: Reduce = "dwconv",
        local: bool = True,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.attn = nn.LayerNorm(dim), StripSelfAttention(dim, heads, ratio, qk_channels, reduce)
        self.norm2 = nn.LayerNorm(dim) if local else None
        self.lim = LocalInteraction(dim) if local else None
        self.norm3, self.mlp = nn.LayerNorm(dim), Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map of the same size."""
        size = (maps.shape[2], maps.shape[3])
        maps = maps + self.conv(maps)
        x = rearrange(maps, "b c h w -> b (h w) c")
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        if self.norm2 is not None and self.lim is not None:
            seen = self.lim(rearrange(self.norm2(x), "b (h w) c -> b c h w", h=size[0]))
            x = x + self.drop_path(rearrange(seen, "b c h w -> b (h w) c"))
        x = x + self.drop_path(self.mlp(self.norm3(x)))
        return rearrange(x, "b (h w) c -> b c h w", h=size[0])


def _halved(source: int, dim: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, dim, 3, stride, 1, bias=False), nn.BatchNorm2d(dim))


@system(
    "s2aformer",
    room="backbones",
    paper=Paper(
        "S2AFormer: Strip Self-Attention for Efficient Vision Transformer",
        2025,
        "https://arxiv.org/abs/2505.22195",
    ),
    presets={
        "tiny": S2AFormerConfig(),
        "small": S2AFormerConfig((48, 96, 192, 384), (3, 3, 9, 3)),
        "base": S2AFormerConfig((64, 128, 320, 512), (3, 4, 12, 3), (1, 2, 5, 8), drop_path=0.2),
    },
    tags=("image", "hierarchical", "strip-attention", "convolution", "classification", "dense-prediction"),
    status="reconstruction",
)
class S2AFormer(Backbone):
    """S2AFormer (Xu et al., 2025): strip self-attention between convolutions, in four stages.

    ```
    pixels ─► stem: 3 convs /2 ─► patches /4 ─► blocks ─► /8 ─► blocks ─► /16 ─► blocks ─► /32 ─► blocks
    [b 3 t h w]                                  └─ four maps (`pyramid`) ─┘                       │
    logits [b classes] ◄─ `classify` ◄─ norm ◄─ mean (`pooled`) ◄──────────────────────────────────┘
    ```
    Pictures of any size: they are continued by zeros to multiples of 32, maps cut to their share of the
    picture; every frame by itself.
    Training of its class: ImageNet-1k, 300 epochs, AdamW, 1e-3 at 1,024 pictures, decay 0.05, cosine, 5 to 20
    epochs of warm-up, RandAugment, mixup 0.8, cutmix 1.0, random erasing 0.25, label smoothing 0.1.
    A reconstruction, for no code is public. From the paper: four stages, the stem, the block's equations,
    where attention is compressed. Ours: the sizes of the presets, one channel a head for queries and keys,
    reductions of 8, 4, 2 and 1 (1 leaves the map as it is), norms and activations, MLPs of ratio 4.

    Raises:
        MediaError: pixels that mean nothing.
    """

    def __init__(self, config: S2AFormerConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or S2AFormerConfig()
        first = config.dims[0]
        stem = [_halved(3, first), _halved(first, first, 1), _halved(first, first, 1)]
        self.stem = nn.Sequential(*(nn.Sequential(*conv, nn.GELU()) for conv in stem))
        self.patches, self.stages = nn.ModuleList(), nn.ModuleList()
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").split(config.depths)
        source = first
        stages = zip(config.dims, config.heads, config.reductions, rates, strict=True)
        for dim, heads, ratio, part in stages:
            self.patches.append(_halved(source, dim))
            self.stages.append(
                nn.Sequential(
                    *(
                        HybridPerceptionBlock(
                            dim,
                            heads,
                            ratio,
                            config.qk_channels,
                            config.reduce,
                            config.local,
                            config.mlp_ratio,
                            rate,
                        )
                        for rate in part.tolist()
                    )
                )
            )
            source = dim
        self.norm = nn.LayerNorm(source)
        self.head = nn.Linear(source, config.classes) if config.classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1]."""
        if isinstance(source, Tokens):
            raise ConfigError("S2AFormer works on pixels [b 3 t h w], not on tokens")
        frames = frames_of(source)
        frames = self.normalise(frames[:, :, None])[:, :, 0]
        return over_time(self.look(frames), source.shape[2])

    def look(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        height, width = frames.shape[-2:]
        maps = self.stem(F.pad(frames, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1])))
        pyramid = []
        for patches, stage, stride in zip(self.patches, self.stages, STRIDES, strict=True):
            maps = stage(patches(maps))
            pyramid.append(maps[:, :, None, : -(-height // stride), : -(-width // stride)])
        last = pyramid[-1]
        tokens = rearrange(last, "b c 1 h w -> b (h w) c")
        return Features(tokens, self.norm(tokens.mean(1)), tuple(pyramid), grid=(1, *last.shape[-2:]))

    def classify(self, features: Features) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.head(features.pooled)
