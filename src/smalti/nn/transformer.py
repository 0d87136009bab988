"""The transformer block family: attention, MLP, residual block; names of parameters as timm's.

```
x [b n d] ─┬─► norm1 ─► attn ─► scale ─┬─►┬─► norm2 ─► mlp ─► scale ─┬─► [b n d]
           └───────────────────────────┘  └──────────────────────────┘
```
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), as CLIP computes GELU."""

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The activation."""
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Every token by itself."""
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention, one fused product for queries, keys and values, by the fused kernel.

    Args:
        dim: channels.
        heads: that divide them.
        qkv_bias: of the fused product.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b heads n d/heads]."""
        q, k, v = rearrange(self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        return q, k, v

    def forward(self, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Attend; `bias` [b|1 h|1 n|1 n] is added to the logits, or is True where attention may go."""
        q, k, v = self.split(x)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another; separate `q`, fused `kv`.

    Args:
        dim: channels of the queries and of the result.
        heads: that divide them.
        qkv_bias: of both products.
        source: channels of the other sequence; `dim` when not given.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, source: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(source or dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b m d"], other: Float[Tensor, "b n e"], bias: Tensor | None = None
    ) -> Float[Tensor, "b m d"]:
        """Every token of `x` asks all of `other`."""
        q = rearrange(self.q(x), "b m (h c) -> b h m c", h=self.heads)
        k, v = rearrange(self.kv(other), "b n (two h c) -> two b h n c", two=2, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(out, "b h m c -> b m (h c)"))


class DropPath(nn.Module):
    """Leaves a residual branch out for some samples of a batch, in training alone (Huang et al., 2016)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"a rate of dropped paths must lie in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        """The branch, scaled up where it is kept."""
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class LayerScale(nn.Module):
    """A learned factor for every channel (Touvron et al., 2021)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Scaled channels."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        dim: channels.
        heads: of the attention.
        mlp_ratio: hidden channels of the MLP, as a factor.
        qkv_bias: of the fused product.
        eps: of both norms.
        layer_scale: start of both LayerScales; none when not given.
        drop_path: share of samples without a branch, in training.
        activation: of the MLP.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        scale = nn.Identity if layer_scale is None else lambda: LayerScale(dim, layer_scale)
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, qkv_bias)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation)
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """The first half: tokens look at each other."""
        return x + self.drop_path(self.ls1(self.attn(self.norm1(x), bias)))

    def feed(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The second half: every token by itself."""
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def forward(self, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Both halves."""
        return self.feed(self.attend(x, bias))
