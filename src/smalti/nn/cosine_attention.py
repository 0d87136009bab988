"""Attention between vectors of length one, and what stands beside it in C-ViViT's layers.

```
x [b n d] ─► norm ─► q ──────────────┐
    └──────────────► k, v (un-normed)┴─► 8 · (q̂·g_q)(k̂·g_k)ᵀ + bias ─► softmax · v ─► out
```
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.clustering import chunked
from smalti.nn.place_bias import Rows
from smalti.nn.rotary_pairs import turn_pairs

SCALE = 8.0  # of the logits of unit vectors


class GainNorm(nn.Module):
    """Layer norm with a learned gain and no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Mean 0 and deviation 1, times the gain."""
        return F.layer_norm(x, x.shape[-1:], self.gamma)


class GatedFeed(nn.Module):
    """Norm, then an MLP whose second half gates the first through GELU (GEGLU: Shazeer, 2020).

    Args:
        dim: channels; two thirds of four times as many are hidden, and none of the products has a bias.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(4 * (2 / 3) * dim)
        self.norm = nn.LayerNorm(dim)
        self.into = nn.Linear(dim, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Every token by itself."""
        value, gate = self.into(self.norm(x)).chunk(2, -1)
        return self.out(value * F.gelu(gate))


class CosineAttention(nn.Module):
    """Multi-head attention on normalised queries and keys with learned gains, without biases.

    Only the queries come from the normed input; keys and values come from what went in, as in the public
    implementations.

    Args:
        dim: channels.
        heads: of the attention.
        dim_head: channels of a head.
        source: channels of another sequence that is asked; the input itself when not given.
        nulls: learned keys and values that are always there.
    """

    def __init__(
        self, dim: int, heads: int, dim_head: int, source: int | None = None, nulls: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GainNorm(dim)
        self.context_norm = None if source is None else GainNorm(source)
        self.q = nn.Linear(dim, heads * dim_head, bias=False)
        self.kv = nn.Linear(source or dim, 2 * heads * dim_head, bias=False)
        self.q_scale = nn.Parameter(torch.ones(dim_head))
        self.k_scale = nn.Parameter(torch.ones(dim_head))
        self.null_kv = nn.Parameter(torch.randn(heads, 2 * nulls, dim_head)) if nulls else None
        self.out = nn.Linear(heads * dim_head, dim, bias=False)

    def split(
        self, x: Float[Tensor, "b n d"], other: Tensor | None = None, angles: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b heads n dim_head], ready for their product."""
        source = x if other is None or self.context_norm is None else self.context_norm(other)
        q = rearrange(self.q(self.norm(x)), "b n (h c) -> b h n c", h=self.heads)
        k, v = rearrange(self.kv(source), "b n (two h c) -> two b h n c", two=2, h=self.heads)
        if angles is not None:
            q, k = turn_pairs(q, angles), turn_pairs(k, angles)
        if self.null_kv is not None:
            nulls = repeat(self.null_kv, "h (n two) c -> two b h n c", two=2, b=len(x))
            k, v = torch.cat([nulls[0], k], 2), torch.cat([nulls[1], v], 2)
        return F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale, v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Rows | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Attend.

        Args:
            q, k, v: as `split` gives them.
            bias: added to the logits; made for no more rows at a time than memory allows.
            mask: which tokens may be asked; null keys always may.
        """
        allowed = None
        if mask is not None:
            allowed = F.pad(mask, (k.shape[2] - mask.shape[1], 0), value=True)[:, None, None]
        if bias is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=SCALE)
        else:
            parts = []
            for part in chunked(q.shape[2], k.shape[2] * self.heads):
                added = bias(part).to(q.dtype)
                added = added if allowed is None else added.masked_fill(~allowed, -torch.inf)
                parts.append(
                    F.scaled_dot_product_attention(q[:, :, part], k, v, attn_mask=added, scale=SCALE)
                )
            out = torch.cat(parts, 2)
        return self.out(rearrange(out, "b h n c -> b n (h c)"))

    def mix(
        self,
        x: Float[Tensor, "b m d"],
        other: Float[Tensor, "b n e"] | None = None,
        bias: Rows | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """What every token takes from its own sequence, or from another; the residual is the caller's."""
        return self.attend(*self.split(x, other), bias, mask)
