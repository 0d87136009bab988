"""CenterCLIP's picture tower: CLIP's blocks, between which frames become segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.shift import shift_time
from smalti.nn.transformer import Block, QuickGELU
from smalti.reducers.centerclip import CenterCLIPConfig as Clustering
from smalti.reducers.centerclip import cluster_tokens

SHIFTS = ("token_shift", "temporal_shift")


def blockwise(depth: int, after: int, before: int, then: int) -> tuple[int, ...]:
    """`before` for the first `after` blocks, `then` for the others."""
    return (before,) * after + (then,) * (depth - after)


@dataclass(frozen=True)
class CenterCLIPConfig:
    """Attributes:
    frames: of a clip.
    resolution: height and width of a frame.
    patch: height and width of a patch.
    spacetime_patch: patches see the frame before and after too (official `linear_patch` 3d).
    width: channels of the picture tower.
    heads: of its attention.
    depth: its blocks.
    embedding: channels that pictures and captions share.
    words: longest caption.
    vocabulary: of the caption's tokens; the highest ends it.
    text_width: channels of the caption tower.
    text_heads: of its attention.
    text_depth: its blocks.
    target_frames: frames or segments in every block.
    cluster_tokens: tokens of a frame or segment in every block, the class token not counted. A block clusters
        where it has fewer frames or tokens than the one before, and more than one token.
    clustering: the algorithm; its `segments` follows from the lists.
    shift: instead of clustering, shift channels in time where a block would cluster: "token_shift" those of
        class tokens, "temporal_shift" those of all others. Frames then stay.
    cluster_embedding: add a learned vector to every cluster.
    frame_embedding: add a learned vector to every frame of a segment before its tokens are taken. Official
        checkpoints may hold one that the official code does not use.
    """

    frames: int = 12
    resolution: int = 224
    patch: int = 32
    spacetime_patch: bool = False
    width: int = 768
    heads: int = 12
    depth: int = 12
    embedding: int = 512
    words: int = 77
    vocabulary: int = 49408
    text_width: int = 512
    text_heads: int = 8
    text_depth: int = 12
    target_frames: tuple[int, ...] = blockwise(12, 6, 12, 4)
    cluster_tokens: tuple[int, ...] = (49,) * 12
    clustering: Clustering = field(default_factory=Clustering)
    shift: str | None = None
    cluster_embedding: bool = False
    frame_embedding: bool = False

    def __post_init__(self) -> None:
        for name in ("target_frames", "cluster_tokens"):
            if len(getattr(self, name)) != self.depth:
                raise ConfigError(
                    f"{name} needs one number for each of {self.depth} blocks, not {len(getattr(self, name))}"
                )
        if self.resolution % self.patch:
            raise ConfigError(f"patches of {self.patch} do not divide {self.resolution} pixels")
        if self.shift not in (None, *SHIFTS):
            raise ConfigError(f"no shift {self.shift!r}: choose one of {', '.join(SHIFTS)}")
        frames = (self.frames, *self.target_frames)
        if any(before % after for before, after in zip(frames, self.target_frames, strict=False)):
            raise ConfigError(f"frames of a block must divide those of the block before: {frames}")

    def clusters_at(self, block: int) -> bool:
        """Whether this block begins with clustering."""
        tokens = self.cluster_tokens
        frames = (self.frames, *self.target_frames)
        fewer = frames[block] > frames[block + 1] or tokens[max(block - 1, 0)] > tokens[block]
        return tokens[block] > 1 and fewer


class SegmentClustering(nn.Module):
    """Where a block begins: frames → segments, tokens → medoids, class tokens → their mean.

    ```
    [b·t, 1 + l, d] ─┬─ class tokens ─► mean of a segment's ─┐
                     └─ patches ─► cluster_tokens ───────────┴─► [b·s, 1 + k, d]
    ```
    """

    def __init__(self, config: CenterCLIPConfig, block: int) -> None:
        super().__init__()
        self.config = config.clustering
        self.before = (config.frames, *config.target_frames)[block]
        self.segments, self.count = config.target_frames[block], config.cluster_tokens[block]
        scale = config.width**-0.5
        learns = config.clustering.algorithm in ("kmedoids", "spectral")
        self.cluster_embedding, self.frame_embedding = None, None
        if config.cluster_embedding and learns:
            self.cluster_embedding = nn.Parameter(scale * torch.randn(self.count, config.width))
        if config.frame_embedding and learns:
            duration = self.before // self.segments
            self.frame_embedding = nn.Parameter(scale * torch.randn(duration, 1, config.width))

    def forward(self, x: Float[Tensor, "bt n d"]) -> Float[Tensor, "bs k d"]:
        """Fewer, richer sequences."""
        x = rearrange(x, "(b t) n d -> b t n d", t=self.before)
        classes = rearrange(x[:, :, :1], "b (s t) one d -> b s t one d", s=self.segments).mean(2)
        patches = x[:, :, 1:]
        if self.frame_embedding is not None:
            patches = patches + self.frame_embedding.repeat(self.segments, 1, 1)
        kept = cluster_tokens(patches, self.segments, self.count, self.config, random=self.training).tokens
        if self.cluster_embedding is not None:
            kept = kept + self.cluster_embedding
        return torch.cat([classes, kept], 2).flatten(0, 1)


class ClipTower(nn.Module):
    """CLIP's picture tower over the frames of a clip.

    Args:
        config: sizes, and where it clusters.
    """

    def __init__(self, config: CenterCLIPConfig) -> None:
        super().__init__()
        self.config = config
        size, scale = config.patch, config.width**-0.5
        kernel = (3 if config.spacetime_patch else 1, size, size)
        self.patches = nn.Conv3d(
            3, config.width, kernel, stride=(1, size, size), padding=(kernel[0] // 2, 0, 0), bias=False
        )
        self.class_token = nn.Parameter(scale * torch.randn(config.width))
        tokens = (config.resolution // size) ** 2
        self.position = nn.Parameter(scale * torch.randn(tokens + 1, config.width))
        self.norm_before = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(clip_block(config.width, config.heads) for _ in range(config.depth))
        places = [block for block in range(config.depth) if config.clusters_at(block)]
        self.shifted = frozenset(places if config.shift else ())
        if not config.shift:
            _check(config, tokens, places)
        self.clusterings = nn.ModuleDict(
            {str(block): SegmentClustering(config, block) for block in places if not config.shift}
        )
        self.norm_after = nn.LayerNorm(config.width)
        self.projection = nn.Parameter(scale * torch.randn(config.width, config.embedding))

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b s e"]:
        """One embedding a segment."""
        batch, _, frames = video.shape[:3]
        x = rearrange(self.patches(video), "b d t h w -> (b t) (h w) d")
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + self.position
        x = self.norm_before(x)
        for number, block in enumerate(cast("Iterable[Block]", self.blocks)):
            if str(number) in self.clusterings:
                x = self.clusterings[str(number)](x)
            x = self._shifted(x, number, frames)
            x = block.attend(x)
            if self.config.shift == "token_shift":
                x = self._shifted(x, number, frames)
            x = block.feed(x)
        return (self.norm_after(x[:, 0]) @ self.projection).unflatten(0, (batch, -1))

    def _shifted(self, x: Float[Tensor, "bt n d"], block: int, frames: int) -> Float[Tensor, "bt n d"]:
        if block not in self.shifted:
            return x
        x = rearrange(x, "(b t) n d -> b t n d", t=frames)
        classes, others = x[:, :, :1], x[:, :, 1:]
        if self.config.shift == "token_shift":
            classes = shift_time(classes)
        else:
            others = shift_time(others)
        return torch.cat([classes, others], 2).flatten(0, 1)


def _check(config: CenterCLIPConfig, tokens: int, places: list[int]) -> None:
    """Every block must find the tokens that the lists promise."""
    for block in range(config.depth):
        if block in places:
            frames = (config.frames, *config.target_frames)[block]
            there = tokens * frames // config.target_frames[block]
            tokens = tokens if config.clustering.algorithm == "pooling" else config.cluster_tokens[block]
            if tokens > there:
                raise ConfigError(f"block {block} cannot take {tokens} medoids of {there} tokens")


def clip_block(width: int, heads: int) -> Block:
    """A block as CLIP has it."""
    return Block(width, heads, eps=1e-5, activation=QuickGELU)
