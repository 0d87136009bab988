"""Cluster-reconstruct (Expedit) as an encoder: SAM's image encoder that runs most blocks on clusters."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.superpixels import Layout, neighbour_weights, soft_k_means
from smalti.nn.transformer import Attention
from smalti.nn.windows import join, partition
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class HourglassConfig:
    """SAM's image encoder, and where and how it clusters.

    Attributes:
        image_size: height and width of the images that the position embedding was made for.
        patch_size: pixels a side.
        dim: channels.
        depth: blocks.
        heads: that divide the channels.
        mlp_ratio: hidden channels of the MLPs, as a factor.
        channels: of the result.
        qkv_bias: of the fused products.
        absolute: add a position embedding.
        relative: add decomposed relative positions to attention.
        window: tokens a side of the windows of attention.
        global_blocks: blocks that attend to the whole map.
        location: number of the block before which tokens are clustered; never when negative.
        clusters: in every window, a square number.
        iterations: of clustering.
        temperature: multiplies squared distances.
        locality: cells across, odd, among which a token is shared out.
        neighbours: clusters that a restored token is made of; all when negative.
        norm: of the weights of restoring, "l2" as the official code does, or "l1" as the paper says.
        eps: of the blocks' norms.
    """

    image_size: int = 1024
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    channels: int = 256
    qkv_bias: bool = True
    absolute: bool = True
    relative: bool = True
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    location: int = 3
    clusters: int = 100
    iterations: int = 5
    temperature: float = 0.01
    locality: int = 5
    neighbours: int = 20
    norm: Literal["l1", "l2"] = "l2"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if math.isqrt(self.clusters) ** 2 != self.clusters or not 0 < self.clusters <= self.window**2:
            raise ConfigError(
                f"{self.clusters} clusters of a {self.window}×{self.window} window: give a square number "
                f"of at most {self.window**2}"
            )
        if self.locality < 1 or self.locality % 2 == 0:
            raise ConfigError(f"locality must be an odd number of cells, not {self.locality}")
        if self.norm not in ("l1", "l2"):
            raise ConfigError(f"no norm {self.norm!r}: choose l1 or l2")
        if self.location >= self.depth:
            raise ConfigError(f"no block {self.location} among {self.depth} to cluster before")


SAM_L = HourglassConfig(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23), location=8)
SAM_H = HourglassConfig(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31), location=6, clusters=81)


@system(
    "cluster-reconstruct",
    room="backbones",
    paper=Paper(
        "Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning",
        2022,
        "https://arxiv.org/abs/2210.01035",
    ),
    official=Official("Expedit-LargeScale-Vision-Transformer/Expedit-SAM", "Apache-2.0"),
    presets={"vit_b": HourglassConfig(), "vit_l": SAM_L, "vit_h": SAM_H},
    tags=("training-free", "cluster", "dense-prediction", "image", "segmentation"),
)
class HourglassEncoder(nn.Module):
    """Expedit-SAM (Liang et al., 2022): every window becomes fewer clusters; its tokens come back at the end.

    ```
    image ─► patches [b h w d] ─► blocks 0 … location-1, windows of s×s
                 every window: s² tokens ─► soft local k-means ─► s'² clusters ─► map [b h·s'/s w·s'/s d]
             ─► blocks location … depth-1, windows of s'×s', relative positions interpolated
                 every window: clusters ─► its tokens ─► map [b h w d] ─► neck ─► [b channels h w]
    ```
    Frozen weights of SAM's `image_encoder` fit as they are; nothing is learned. Defaults are SAM's ViT-B with
    100 clusters; `vit_h` clusters to 81 before block 6, reported 1.49 times as fast. Images of other sizes
    than `image_size` get an interpolated position embedding.

    Raises:
        ConfigError: a number of clusters that is no square, or an image that patches do not fill.
    """

    def __init__(self, config: HourglassConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HourglassConfig()
        self.side = math.isqrt(config.clusters)
        grid = config.image_size // config.patch_size
        patch = nn.Conv2d(3, config.dim, config.patch_size, config.patch_size)
        self.patch_embed = nn.Sequential(OrderedDict(proj=patch))
        if config.absolute:
            self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.dim))
        self.blocks = nn.ModuleList(self._block(number, grid) for number in range(config.depth))
        self.neck = nn.Sequential(
            nn.Conv2d(config.dim, config.channels, 1, bias=False),
            ChannelNorm(config.channels, 1e-6),
            nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False),
            ChannelNorm(config.channels, 1e-6),
        )

    def _block(self, number: int, grid: int) -> MapBlock:
        config = self.config
        if number in config.global_blocks:
            return MapBlock(config, window=0, extent=grid)
        clustered = 0 <= config.location <= number
        return MapBlock(config, window=self.side if clustered else config.window, extent=config.window)

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> HourglassEncoder:
        """The encoder with weights of SAM: a whole checkpoint, or its `image_encoder` alone.

        Args:
            state: by official names; those of the prompt encoder and mask decoder are left out.
            config: fields of `HourglassConfig`; ViT-B's when not given.
        """
        prefix = "image_encoder."
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        module = cls(replace(HourglassConfig(), config))
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(f"this checkpoint does not fit the configuration: {error}") from error
        return module.eval()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """Features of images that are normalised as SAM's are: mean and deviation of ImageNet."""
        patch = self.config.patch_size
        if images.shape[2] % patch or images.shape[3] % patch:
            raise ConfigError(
                f"an image of {images.shape[2]}×{images.shape[3]} is not filled by patches of {patch}: pad it"
            )
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        if self.config.absolute:
            x = x + _resized(self.pos_embed, x.shape[1], x.shape[2])
        restore: Callable[[Tensor], Tensor] = nn.Identity()
        for number, block in enumerate(self.blocks):
            if number == self.config.location:
                x, restore = self.cluster(x)
            x = block(x)
        return self.neck(restore(x).permute(0, 3, 1, 2))

    def cluster(
        self, maps: Float[Tensor, "b h w d"]
    ) -> tuple[Float[Tensor, "b i j d"], Callable[[Tensor], Tensor]]:
        """A smaller map of clusters, and the function that makes a map of it as large as the given one."""
        config, size = self.config, (maps.shape[1], maps.shape[2])
        windows, padded = partition(maps, config.window)
        tokens = windows.flatten(1, 2)
        shares = soft_k_means(
            tokens,
            Layout(config.window, config.window, (self.side,) * self.side),
            radius=config.locality // 2,
            temperature=config.temperature,
            iterations=config.iterations,
        )
        centres = shares.to(tokens.dtype) @ tokens
        weights = neighbour_weights(
            tokens,
            centres,
            temperature=config.temperature,
            neighbours=config.neighbours,
            norm=config.norm,
        )
        smaller = (padded[0] * self.side // config.window, padded[1] * self.side // config.window)

        def restore(changed: Float[Tensor, "b i j d"]) -> Float[Tensor, "b h w d"]:
            clusters = partition(changed, self.side)[0].flatten(1, 2)
            restored = weights.to(clusters.dtype) @ clusters
            return join(restored.unflatten(1, (config.window, config.window)), padded, size)

        return join(centres.unflatten(1, (self.side, self.side)), smaller, smaller), restore


class MapBlock(nn.Module):
    """SAM's pre-norm block on maps [b h w d]; attention in windows, or to the whole map if `window` is 0."""

    def __init__(self, config: HourglassConfig, window: int, extent: int) -> None:
        super().__init__()
        self.window = window
        hidden = int(config.dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(config.dim, config.eps)
        self.attn = RelativeAttention(config, extent)
        self.norm2 = nn.LayerNorm(config.dim, config.eps)
        self.mlp = nn.Sequential(
            OrderedDict(lin1=nn.Linear(config.dim, hidden), act=nn.GELU(), lin2=nn.Linear(hidden, config.dim))
        )

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        """Attention and MLP, each added to what comes in."""
        normed = self.norm1(x)
        if self.window:
            windows, padded = partition(normed, self.window)
            attended = join(self.attn(windows), padded, (x.shape[1], x.shape[2]))
        else:
            attended = self.attn(normed)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class RelativeAttention(Attention):
    """Self-attention on a map, with a term of the query for its distance to the key in rows and in columns.

    Args:
        config: of the encoder.
        extent: tokens a side of the maps that the tables of distances were made for.
    """

    def __init__(self, config: HourglassConfig, extent: int) -> None:
        super().__init__(config.dim, config.heads, config.qkv_bias)
        self.relative = config.relative
        if self.relative:
            table = torch.zeros(2 * extent - 1, config.dim // config.heads)
            self.rel_pos_h = nn.Parameter(table)
            self.rel_pos_w = nn.Parameter(table.clone())

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b h w d"]
    ) -> Float[Tensor, "b h w d"]:
        """Attend over the whole map given."""
        height, width = x.shape[1:3]
        q, k, v = self.split(x.flatten(1, 2))
        bias = self._bias(q, height, width) if self.relative else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(out, "b e (h w) c -> b h w (e c)", h=height))

    def _bias(self, q: Float[Tensor, "b e n c"], height: int, width: int) -> Float[Tensor, "b e n n"]:
        q = rearrange(q, "b e (h w) c -> b e h w c", h=height)
        rows = torch.einsum("behwc,hkc->behwk", q, _distances(self.rel_pos_h, height))
        columns = torch.einsum("behwc,wkc->behwk", q, _distances(self.rel_pos_w, width))
        return rearrange(rows[..., None] + columns[..., None, :], "b e h w i j -> b e (h w) (i j)")


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Every position by itself."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _distances(table: Float[Tensor, "l c"], size: int) -> Float[Tensor, "q k c"]:
    """The entry for every query and key of a side, from a table interpolated to their distances."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position + size - 1]


def _resized(embedding: Float[Tensor, "one s t d"], height: int, width: int) -> Float[Tensor, "one h w d"]:
    if embedding.shape[1:3] == (height, width):
        return embedding
    maps = embedding.permute(0, 3, 1, 2)
    return F.interpolate(maps, (height, width), mode="bicubic").permute(0, 2, 3, 1)
