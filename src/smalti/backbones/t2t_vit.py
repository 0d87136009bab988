"""T2T-ViT: overlapping patches become tokens in three steps, then a deep and narrow transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.backbones.evad_parts import positions
from smalti.backbones.picture_frames import check_source, frames_of, over_time, resample_positions
from smalti.errors import ConfigError
from smalti.nn.patches import reflect_to_multiple
from smalti.nn.random_features import linear_attention, orthogonal_features, positive_features
from smalti.nn.strict_loading import load_strictly, told
from smalti.nn.transformer import Attention, Block, Mlp
from smalti.registry import Official, Paper, system
from smalti.tokens import Tokens

EPS = 1e-5
STRIDE = 16  # pixels from one token to the next after all three splits


@dataclass(frozen=True)
class T2TViTConfig:
    """Attributes:
    dim: channels of the transformer.
    depth: of its blocks.
    heads: of their attention.
    mlp_ratio: hidden channels of their MLP, as a factor.
    mixing: of tokens between the splits: "performer" by random features, "transformer" by exact attention.
    token_dim: channels between the splits.
    kernel_ratio: random features, as a factor of `token_dim`.
    dropout: in the performer, while training.
    size: side of the pictures that the positions are counted on.
    classes: of the head; 0 for none.
    qk_scale: of the logits; one over the square root of a head's channels when not given. The official
        factories set one over the square root of `dim` where they load weights, their evaluation does not.
    drop_path: of the last block, falling linearly to 0 at the first.
    """

    dim: int = 384
    depth: int = 14
    heads: int = 6
    mlp_ratio: float = 3.0
    mixing: Literal["performer", "transformer"] = "performer"
    token_dim: int = 64
    kernel_ratio: float = 0.5
    dropout: float = 0.1
    size: int = 224
    classes: int = 1000
    qk_scale: float | None = None
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        if self.mixing not in ("performer", "transformer"):
            raise ConfigError(f"no mixing {self.mixing!r}: choose performer or transformer")
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")
        if self.size % STRIDE or self.size < STRIDE:
            raise ConfigError(f"size must be a multiple of {STRIDE} pixels, not {self.size}")


class ScaledAttention(Attention):
    """Self-attention with a scale of its own."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool, scale: float) -> None:
        super().__init__(dim, heads, qkv_bias)
        self.scale = scale

    def forward(self, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Attend."""
        q, k, v = self.split(x)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))


class NarrowingAttention(nn.Module):
    """One head that is narrower than its input; what is carried around it is the value.

    Logits are divided by the square root of the input's channels, as official.
    """

    def __init__(self, source: int, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(source, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.scale = source**-0.5

    def forward(self, x: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Attend."""
        q, k, v = self.qkv(x).chunk(3, -1)
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=self.scale)[:, 0]
        return v + self.proj(out)


class TokenTransformer(nn.Module):
    """Exact attention and an MLP on soft-split tokens [b n s] → [b n d]."""

    def __init__(self, source: int, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(source, EPS)
        self.attn = NarrowingAttention(source, dim)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = Mlp(dim, dim)

    def forward(self, x: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Mixed and narrowed tokens."""
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenPerformer(nn.Module):
    """Linear-time attention by positive random features, and an MLP; [b n s] → [b n d].

    Queries and keys are not scaled; the fused product gives keys, queries, values, as official.
    """

    w: Tensor

    def __init__(self, source: int, dim: int, kernel_ratio: float = 0.5, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(source, EPS)
        self.kqv = nn.Linear(source, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.register_buffer("w", orthogonal_features(max(int(dim * kernel_ratio), 1), dim))

    def forward(self, x: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Mixed and narrowed tokens."""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, -1)
        mixed = linear_attention(positive_features(q, self.w), positive_features(k, self.w), v)
        x = v + self.drop(self.proj(mixed))
        return x + self.mlp(self.norm2(x))


def soft_split(
    maps: Float[Tensor, "b c h w"], kernel: int, stride: int, padding: int
) -> tuple[Float[Tensor, "b n ckk"], tuple[int, int]]:
    """Overlapping patches, row by row, and their grid; channels first, then rows and columns of the patch."""
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in maps.shape[-2:])
    return F.unfold(maps, kernel, stride=stride, padding=padding).mT, (height, width)


class TokensToToken(nn.Module):
    """Three soft splits with mixing between them: a stem for any transformer (Yuan et al., 2021).

    ```
    [b 3 h w] ─ split 7/4 ─► [b h/4·w/4 147] ─ mix ─► map [b c h/4 w/4] ─ split 3/2 ─► [b h/8·w/8 9c] ─ mix ─►
    map [b c h/8 w/8] ─ split 3/2 ─► [b h/16·w/16 9c] ─ project ─► [b n d]
    ```
    Args:
        dim: channels that come out.
        token_dim: channels between the splits.
        mixing: "performer" or "transformer".
        kernel_ratio: random features of the performer, as a factor of `token_dim`.
        dropout: of the performer.
    """

    def __init__(
        self,
        dim: int,
        token_dim: int = 64,
        mixing: str = "performer",
        kernel_ratio: float = 0.5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()

        def mixer(source: int) -> nn.Module:
            if mixing == "transformer":
                return TokenTransformer(source, token_dim)
            return TokenPerformer(source, token_dim, kernel_ratio, dropout)

        self.attention1 = mixer(3 * 7 * 7)
        self.attention2 = mixer(token_dim * 3 * 3)
        self.project = nn.Linear(token_dim * 3 * 3, dim)

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Tokens and their grid; sides that are no multiple of 16 go on in mirror image."""
        x, grid = soft_split(reflect_to_multiple(frames, STRIDE), 7, 4, 2)
        for mixer in (self.attention1, self.attention2):
            maps = rearrange(mixer(x), "b (h w) c -> b c h w", h=grid[0], w=grid[1])
            x, grid = soft_split(maps, 3, 2, 1)
        return self.project(x), grid


@system(
    "t2t-vit",
    room="backbones",
    paper=Paper(
        "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet",
        2021,
        "https://arxiv.org/abs/2101.11986",
    ),
    official=Official("yitu-opensource/T2T-ViT", "Clear BSD"),
    presets={
        "t2t_vit_14": T2TViTConfig(),
        "t2t_vit_7": T2TViTConfig(256, 7, 4, 2.0),
        "t2t_vit_10": T2TViTConfig(256, 10, 4, 2.0),
        "t2t_vit_12": T2TViTConfig(256, 12, 4, 2.0),
        "t2t_vit_19": T2TViTConfig(448, 19, 7),
        "t2t_vit_24": T2TViTConfig(512, 24, 8),
        "t2t_vit_t_14": T2TViTConfig(mixing="transformer"),
        "t2t_vit_t_19": T2TViTConfig(448, 19, 7, mixing="transformer"),
        "t2t_vit_t_24": T2TViTConfig(512, 24, 8, mixing="transformer"),
        "t2t_vit_14_resnext": T2TViTConfig(heads=32),
        "t2t_vit_14_wide": T2TViTConfig(768, 4, 12),
    },
    tags=("image", "overlapping-patches", "linear-attention", "classification"),
)
class T2TViT(Backbone):
    """T2T-ViT (Yuan et al., 2021): soft splits with token mixing, then a deep and narrow ViT.

    ```
    pixels [b 3 t h w] ─► normalise ─► TokensToToken ─► class token + sinusoids ─► blocks ─► norm ─► Features
                                                                                  logits ◄─ head ◄─┘ (class)
    ```
    Any size: sides that are no multiple of 16 go on in mirror image, and the fixed sinusoids, counted at
    `size`, are resampled (bicubic). Frames of a clip are looked at one by one; pooled is their mean.
    Official training: 310 epochs of AdamW, drop path 0.1. Deviations: the random features are computed in
    float32 also under autocast, where the official ones can overflow; other dropouts, 0 in every official
    recipe, are left out; the official "convolution" tokens, made for comparison, are not here.

    Raises:
        MediaError: pixels that mean nothing.
    """

    cls_token: nn.Parameter
    pos_embed: Tensor

    def __init__(self, config: T2TViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or T2TViTConfig()
        self.tokens_to_token = TokensToToken(
            config.dim, config.token_dim, config.mixing, config.kernel_ratio, config.dropout
        )
        self.side = config.size // STRIDE
        count = self.side**2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", positions((1, 1, count), config.dim, (1, count)))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(_block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim, EPS)
        self.head = nn.Linear(config.dim, config.classes) if config.classes else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(_initialise)

    def encode(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        x, grid = self.tokens_to_token(frames)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(grid)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(x, x[:, 0], prefix=1, grid=(1, *grid))

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n d"]:
        """Of the class token, then of a grid."""
        first, places = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        return torch.cat([first, resample_positions(places, (self.side, self.side), grid)], 1)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1]."""
        if isinstance(source, Tokens):
            raise ConfigError("T2T-ViT works on pixels [b 3 t h w], not on tokens")
        check_source(source)
        frames = frames_of(self.normalise(source).to(source.dtype))
        return over_time(self.encode(frames), source.shape[2])

    def classify(self, source: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.head(self.forward(source).pooled)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, qk_scale: float | None = None
    ) -> T2TViT:
        """The model of an official checkpoint; its sizes are read from it.

        Args:
            state: names and tensors; of a training checkpoint the part `state_dict_ema` is the evaluated one.
            heads: of the blocks, which a checkpoint does not tell; heads of 64 channels when not given.
            qk_scale: of the logits, if another than the usual.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = unwrapped(state)
        dim, token_dim = told(state, "tokens_to_token.project.weight").shape
        token_dim //= 9
        features = state.get("tokens_to_token.attention1.w")
        config = T2TViTConfig(
            dim=dim,
            depth=counted(state, "blocks."),
            heads=heads or max(dim // 64, 1),
            mlp_ratio=told(state, "blocks.0.mlp.fc1.weight").shape[0] / dim,
            mixing="transformer" if features is None else "performer",
            token_dim=token_dim,
            kernel_ratio=0.5 if features is None else len(features) / token_dim,
            size=square_side(told(state, "pos_embed")) * STRIDE,
            classes=len(state["head.weight"]) if "head.weight" in state else 0,
            qk_scale=qk_scale,
        )
        model = cls(config)
        load_strictly(model, state)
        return model


def _block(config: T2TViTConfig, drop_path: float) -> Block:
    block = Block(config.dim, config.heads, config.mlp_ratio, qkv_bias=False, eps=EPS, drop_path=drop_path)
    if config.qk_scale is not None:
        block.attn = ScaledAttention(config.dim, config.heads, False, config.qk_scale)
    return block


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
