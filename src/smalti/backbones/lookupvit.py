"""LookupViT: many cheap lookup tokens and few compressed tokens that are worked on in their stead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.backbones.lookupvit_block import LookupBlock, Reuse, resize, wave_positions
from smalti.backbones.lookupvit_keys import vit_pytorch_keys
from smalti.backbones.picture_frames import check_source
from smalti.errors import ConfigError
from smalti.nn.patches import reflect_to_multiple
from smalti.nn.single_query import SingleQueryAttention
from smalti.nn.strict_loading import load_strictly, told
from smalti.registry import Paper, system
from smalti.tokens import Tokens

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class LookupViTConfig:
    """Attributes:
    dim: channels of both token sets.
    depth: of the blocks.
    heads: of the compressed tokens' self-attention.
    cross_heads: of the look into the lookup tokens; `heads` when not given.
    grid: of the compressed tokens (t, h, w), on which their positions are learned.
    size: side of the pictures on which the lookup tokens' positions are learned.
    frames: of the clips on which they are learned.
    patch: pixels of a lookup token's side.
    tubelet: frames of a lookup token.
    patch_kernel: patches across that the embedding of a patch sees, odd.
    mlp_ratio: hidden channels of the compressed tokens' MLP, as a factor.
    lookup_ratio: the same of the lookup tokens' MLP.
    reuse: of the scores on the way back: "logits", soft-maxed over compressed tokens, or "probs" as they are.
    positions: "learned" for both sets; or "waves", fixed ones of the lookup tokens, compressed with them.
    pooling: of the compressed tokens: "mean", "attention" of a learned query, or a "class" token among
        them; "both" adds the means of both sets.
    infuse_last: the way back in the last block too.
    patch_norm: a norm on embedded patches.
    stream_norm: a norm on the lookup tokens themselves in every block.
    qkv_bias: of all attention.
    eps: of all norms.
    drop_path: of the last block, rising linearly from 0 at the first.
    classes: of the head; 0 for none.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    cross_heads: int | None = None
    grid: Grid = (1, 5, 5)
    size: int = 224
    frames: int = 1
    patch: int = 16
    tubelet: int = 1
    patch_kernel: int = 1
    mlp_ratio: float = 4.0
    lookup_ratio: float = 0.5
    reuse: Reuse = "logits"
    positions: Literal["learned", "waves"] = "learned"
    pooling: Literal["mean", "attention", "class", "both"] = "mean"
    infuse_last: bool = True
    patch_norm: bool = False
    stream_norm: bool = False
    qkv_bias: bool = True
    eps: float = 1e-6
    drop_path: float = 0.0
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")
        if min(self.grid) < 1:
            raise ConfigError(
                f"a grid of compressed tokens needs at least one along every axis, not {self.grid}"
            )
        if self.size % self.patch or self.frames % self.tubelet:
            raise ConfigError(
                f"{self.frames} frames of {self.size} pixels cannot be cut into {self.tubelet} × {self.patch}"
            )
        if self.patch_kernel % 2 == 0:
            raise ConfigError(f"patch_kernel must be odd, not {self.patch_kernel}")
        if self.pooling == "both" and not self.infuse_last:
            raise ConfigError("pooling both sets needs the lookup tokens of the last block: infuse_last=True")

    @property
    def lookup_grid(self) -> Grid:
        """Of the lookup tokens' learned positions."""
        return (self.frames // self.tubelet, self.size // self.patch, self.size // self.patch)


class Sets(NamedTuple):
    """Both token sets.

    Attributes:
        compressed: [b m d], the class token first where there is one.
        lookup: [b n d].
        grid: of the lookup tokens.
    """

    compressed: Tensor
    lookup: Tensor
    grid: Grid


@system(
    "lookupvit",
    room="backbones",
    paper=Paper(
        "LookupViT: Compressing visual information to a limited number of tokens",
        2024,
        "https://arxiv.org/abs/2407.12753",
    ),
    presets={
        "b16-5x5": LookupViTConfig(),
        "b16-3x3": LookupViTConfig(grid=(1, 3, 3)),
        "b16-7x7": LookupViTConfig(grid=(1, 7, 7)),
        "b16-10x10": LookupViTConfig(grid=(1, 10, 10)),
        "l16-5x5": LookupViTConfig(1024, 24, 16),
        "b16-video": LookupViTConfig(grid=(4, 5, 5), frames=32, tubelet=2),
        "vit-pytorch": LookupViTConfig(
            dim=512,
            depth=3,
            heads=8,
            grid=(1, 8, 8),
            size=256,
            patch=8,
            patch_kernel=7,
            lookup_ratio=4.0,
            positions="waves",
            pooling="both",
            patch_norm=True,
            stream_norm=True,
            qkv_bias=False,
            eps=1e-5,
        ),
    },
    tags=("image", "video", "cross-attention", "compress", "classification"),
    status="reconstruction",
)
class LookupViT(Backbone):
    """LookupViT (Koner et al., 2024): few compressed tokens look into many lookup tokens, block by block.

    ```
    pixels [b 3 t h w] ─► patches [b n d] ─► + positions ──► lookup ────┐
                             └─► resize ─► + positions ─► compressed ───┴─► LookupBlock × depth ─► norm
                                 any (t, h, w) of m tokens                    logits ◄─ head ◄─ pool ◄─┘
    ```
    Features: `tokens`, `grid` of the compressed tokens; `pyramid` maps of the lookup tokens, then of the
    compressed ones. Any size and length: sides go on in mirror image to whole patches, the last frame is
    repeated to whole tubelets, positions are resampled (linear). One model takes any grid of compressed
    tokens at every call, so that training may change it step by step.
    No official code is public. The lookup MLP's width, the scores' reuse and the video preset's grid are
    our reading; `from_official` reads weights in vit-pytorch's layout, whose ways are options: sine
    positions, norms on patches and lookup tokens, pooling of both sets.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: a grid without tokens.
    """

    def __init__(self, config: LookupViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or LookupViTConfig()
        dim, kernel, patch = config.dim, config.patch_kernel, config.patch
        around = kernel // 2 * patch
        self.patch_embed = nn.Conv3d(
            3,
            dim,
            (config.tubelet, kernel * patch, kernel * patch),
            (config.tubelet, patch, patch),
            (0, around, around),
        )
        self.patch_norm = nn.LayerNorm(dim, config.eps) if config.patch_norm else nn.Identity()
        if config.positions == "learned":
            self.pos_lookup = nn.Parameter(torch.zeros(1, dim, *config.lookup_grid))
            self.pos_compressed = nn.Parameter(torch.zeros(1, dim, *config.grid))
        if config.pooling == "class":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.pooling == "attention":
            self.query = nn.Parameter(torch.zeros(1, 1, dim))
            self.attention_pool = SingleQueryAttention(dim, config.heads)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            LookupBlock(
                dim,
                config.heads,
                config.cross_heads or config.heads,
                config.mlp_ratio,
                config.lookup_ratio,
                config.reuse,
                config.infuse_last or number < config.depth - 1,
                config.stream_norm,
                config.qkv_bias,
                config.eps,
                rate,
            )
            for number, rate in enumerate(rates)
        )
        self.norm = nn.LayerNorm(dim, config.eps)
        self.lookup_norm = nn.LayerNorm(dim, config.eps) if config.pooling == "both" else nn.Identity()
        self.head = nn.Linear(dim, config.classes) if config.classes else nn.Identity()
        for name in ("pos_lookup", "pos_compressed", "cls_token", "query"):
            if hasattr(self, name):
                nn.init.trunc_normal_(getattr(self, name), std=0.02)

    def embed(self, clip: Float[Tensor, "b 3 t h w"], grid: Grid | None = None) -> Sets:
        """Both sets of a normalised clip, with positions."""
        wanted: Grid = self.config.grid if grid is None else grid
        if min(wanted) < 1:
            raise ConfigError(
                f"a grid of compressed tokens needs at least one along every axis, not {wanted}"
            )
        frames = F.pad(clip, (0, 0, 0, 0, 0, -clip.shape[2] % self.config.tubelet), mode="replicate")
        maps = self.patch_embed(reflect_to_multiple(frames, self.config.patch))
        maps = self.patch_norm(maps.movedim(1, -1)).movedim(-1, 1)
        found: Grid = (maps.shape[2], maps.shape[3], maps.shape[4])
        if self.config.positions == "learned":
            lookup = maps + resize(self.pos_lookup, found)
            compressed = resize(maps, wanted) + resize(self.pos_compressed, wanted)
        else:
            lookup = maps + wave_positions(found[1], found[2], self.config.dim).to(maps)
            compressed = resize(lookup, wanted)
        flat = rearrange(compressed, "b d t h w -> b (t h w) d")
        if self.config.pooling == "class":
            flat = torch.cat([self.cls_token.expand(len(flat), -1, -1), flat], 1)
        return Sets(flat, rearrange(lookup, "b d t h w -> b (t h w) d"), found)

    def encode(self, clip: Float[Tensor, "b 3 t h w"], grid: Grid | None = None) -> Features:
        """Features of a normalised clip."""
        wanted: Grid = self.config.grid if grid is None else grid
        x, lookup, found = self.embed(clip, wanted)
        for block in self.blocks:
            x, lookup = block(x, lookup)
        x, lookup = self.norm(x), self.lookup_norm(lookup)
        prefix = int(self.config.pooling == "class")
        maps = (
            rearrange(lookup, "b (t h w) d -> b d t h w", t=found[0], h=found[1]),
            rearrange(x[:, prefix:], "b (t h w) d -> b d t h w", t=wanted[0], h=wanted[1]),
        )
        return Features(x, self.pool(x, lookup), maps, prefix, wanted)

    def pool(
        self, compressed: Float[Tensor, "b m d"], lookup: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b d"]:
        """One feature of the whole."""
        if self.config.pooling == "class":
            return compressed[:, 0]
        if self.config.pooling == "attention":
            query = self.query.expand(len(compressed), -1, -1)
            return self.attention_pool(torch.cat([query, compressed], 1))[:, 0]
        mean = compressed.mean(1)
        return mean + lookup.mean(1) if self.config.pooling == "both" else mean

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens, grid: Grid | None = None) -> Features:
        """Features of pixels in [0, 1]; `grid` of compressed tokens, the configured one when not given."""
        if isinstance(source, Tokens):
            raise ConfigError("LookupViT works on pixels [b 3 t h w], not on tokens")
        check_source(source)
        return self.encode(self.normalise(source).to(source.dtype), grid)

    def classify(self, source: Float[Tensor, "b 3 t h w"], grid: Grid | None = None) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.head(self.forward(source, grid).pooled)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int = 8,
        cross_heads: int | None = None,
        patch: int = 16,
        size: int | None = None,
        reuse: Reuse = "logits",
    ) -> LookupViT:
        """The model of a checkpoint in vit-pytorch's layout (LookViT); its sizes are read from it.

        Args:
            state: names and tensors.
            heads: of self-attention, which a checkpoint does not tell.
            cross_heads: of the look; `heads` when not given.
            patch: pixels of a compressed token's side.
            size: of the pictures; where it is not given, the table of positions must tell it.
            reuse: of the scores; versions of vit-pytorch differ in it.

        Raises:
            ConfigError: names or shapes that do not fit, such as heads that do not fill the channels.
        """
        state = unwrapped(state)
        embedding = told(state, "to_patches.1.weight")
        dim, side = len(embedding), round((embedding.shape[1] // 3) ** 0.5)
        if size is None and "pos_embedding" not in state:
            raise ConfigError("this checkpoint does not tell the size of its pictures: give size=")
        pixels = square_side(state["pos_embedding"][None], prefix=0) * side if size is None else size
        config = LookupViTConfig(
            dim=dim,
            depth=counted(state, "layers."),
            heads=heads,
            cross_heads=cross_heads,
            grid=(1, pixels // patch, pixels // patch),
            size=pixels,
            patch=side,
            patch_kernel=embedding.shape[-1],
            mlp_ratio=told(state, "layers.0.1.1.weight").shape[0] / dim,
            lookup_ratio=told(state, "layers.0.5.1.weight").shape[0] / dim,
            reuse=reuse,
            positions="waves",
            pooling="both",
            patch_norm=True,
            stream_norm=True,
            qkv_bias=False,
            eps=1e-5,
            classes=len(told(state, "to_logits.weight")),
        )
        model = cls(config)
        load_strictly(model, vit_pytorch_keys(state, side, config.depth))
        return model
