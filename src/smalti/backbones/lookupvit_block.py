"""LookupViT's block: few tokens look into many and are worked on; the many are told what came of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.transformer import Block, DropPath, Mlp

Reuse = Literal["logits", "probs"]


class Look(NamedTuple):
    """Queries of the compressed tokens [b heads m c], and keys of the lookup tokens [b heads n c]."""

    q: Tensor
    k: Tensor


def _heads(x: Float[Tensor, "b n d"], heads: int) -> Float[Tensor, "b h n c"]:
    return rearrange(x, "b n (h c) -> b h n c", h=heads)


def _together(x: Float[Tensor, "b h n c"]) -> Float[Tensor, "b n d"]:
    return rearrange(x, "b h n c -> b n (h c)")


class Gather(nn.Module):
    """Compressed tokens read lookup tokens.

    Args:
        dim: channels.
        heads: that divide them.
        qkv_bias: of queries, keys and values.
        eps: of the norms.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"{heads} heads do not divide {dim} channels")
        self.heads = heads
        self.norm_q, self.norm_kv = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, compressed: Float[Tensor, "b m d"], lookup: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b m d"], Look]:
        """What is read, and the look, to be used again."""
        source = self.norm_kv(lookup)
        look = Look(_heads(self.q(self.norm_q(compressed)), self.heads), _heads(self.k(source), self.heads))
        read = F.scaled_dot_product_attention(look.q, look.k, _heads(self.v(source), self.heads))
        return self.proj(_together(read)), look


class Infuse(nn.Module):
    """Lookup tokens are told of compressed ones, by the scores with which these have read them.

    "logits" puts the scores through a soft-max over the compressed tokens, which is attention with queries
    and keys changed round; "probs" takes the weights of the reading as they are, which sum to about m/n.

    Args:
        dim: channels.
        heads: of the reading.
        reuse: of its scores.
        qkv_bias: of the values.
        eps: of the norm.
    """

    def __init__(
        self, dim: int, heads: int, reuse: Reuse = "logits", qkv_bias: bool = True, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads, self.reuse = heads, reuse
        self.norm = nn.LayerNorm(dim, eps)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, compressed: Float[Tensor, "b m d"], look: Look) -> Float[Tensor, "b n d"]:
        """What is told."""
        v = _heads(self.v(self.norm(compressed)), self.heads)
        if self.reuse == "logits":
            told = F.scaled_dot_product_attention(look.k, look.q, v)
        else:
            logits = look.q @ look.k.mT * look.q.shape[-1] ** -0.5
            told = logits.softmax(-1).mT @ v
        return self.proj(_together(told))


class LookupBlock(nn.Module):
    """One step of LookupViT (Koner et al., 2024): two token sets, one pair of queries and keys between them.

    ```
    compressed [b m d] ─► + gather ─► + self-attention ─► + MLP (4 d) ─┬─► compressed
                             ▲ q, k                                    ▼
    lookup [b n d] ──────────┴──────────────────────────────────► + infuse ─► + small MLP (d/2) ─► lookup
    ```
    Linear in n: lookup tokens never attend to each other.

    Args:
        dim: channels of both sets.
        heads: of self-attention.
        cross_heads: of the look.
        mlp_ratio: hidden channels of the compressed tokens' MLP, as a factor.
        lookup_ratio: the same of the lookup tokens' MLP.
        reuse: of the scores, "logits" or "probs".
        infuse: the way back; without it lookup tokens stay as they are.
        stream_norm: a norm on the lookup tokens themselves after the infusion, as vit-pytorch has it.
        qkv_bias: of all attention.
        eps: of all norms.
        drop_path: share of samples without a branch, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cross_heads: int,
        mlp_ratio: float = 4.0,
        lookup_ratio: float = 0.5,
        reuse: Reuse = "logits",
        infuse: bool = True,
        stream_norm: bool = False,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.gather = Gather(dim, cross_heads, qkv_bias, eps)
        self.refine = Block(dim, heads, mlp_ratio, qkv_bias, eps, drop_path=drop_path)
        self.infuse = Infuse(dim, cross_heads, reuse, qkv_bias, eps) if infuse else None
        if infuse:
            self.stream_norm = nn.LayerNorm(dim, eps) if stream_norm else nn.Identity()
            self.lookup_norm = nn.LayerNorm(dim, eps)
            self.lookup_mlp = Mlp(dim, int(dim * lookup_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, compressed: Float[Tensor, "b m d"], lookup: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b n d"]]:
        """Both sets, one step further."""
        read, look = self.gather(compressed, lookup)
        compressed = self.refine(compressed + self.drop_path(read))
        if self.infuse is None:
            return compressed, lookup
        lookup = self.stream_norm(lookup + self.drop_path(self.infuse(compressed, look)))
        return compressed, lookup + self.drop_path(self.lookup_mlp(self.lookup_norm(lookup)))


def resize(maps: Float[Tensor, "b d t h w"], grid: tuple[int, int, int]) -> Float[Tensor, "b d t2 h2 w2"]:
    """Maps of tokens or positions on another grid, linear in time and space, without antialiasing."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps.float(), grid, mode="trilinear", align_corners=False).to(maps.dtype)


def wave_positions(height: int, width: int, dim: int) -> Float[Tensor, "1 d 1 h w"]:
    """Sines and cosines of columns, then of rows, in quarters of the channels, as vit-pytorch has them.

    Raises:
        ConfigError: channels that are not quarters of at least two.
    """
    if dim % 4 or dim < 8:
        raise ConfigError(f"sine positions need a multiple of 4 channels from 8 on, not {dim}")
    rate = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4 - 1))
    rows = (torch.arange(height)[None] * rate[:, None])[:, :, None].expand(-1, -1, width)
    columns = (torch.arange(width)[None] * rate[:, None])[:, None].expand(-1, height, -1)
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()])[None, :, None]
