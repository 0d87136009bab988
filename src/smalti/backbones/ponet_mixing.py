"""PoNet's mixer of tokens and the block around it.

```
x [b n d] ─► one product ─► Q, K, O, S, L                      Q, K, O in heads
   g = mean of Q ─► softmax(g Kᵀ / √c) K = G [b h c]           global aggregation
   SMP = max of S within the token's segment                    segment max-pooling
   LMP = max of L among neighbours                              local max-pooling
   Y = (G + SMP) · O + LMP ─► proj ─► [b n d]                   pooling fusion
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.granular_pooling import local_max, piece_max, segment_max, window_max
from smalti.nn.transformer import Mlp

FILLER = -10000.0  # stands in maxima and scores for what is not there


@dataclass(frozen=True)
class Places:
    """Where tokens lie.

    Attributes:
        segments: number of every token's segment, 0 … n − 1.
        pieces: equal segments, when `segments` are not given.
        mask: True where a token is real.
        special: True for tokens that take part in nothing but the global aggregation.
        grid: rows and columns of tokens of a picture; neighbours and windows lie on it.
        window: side of the segments of a picture.
    """

    segments: Int[Tensor, "b n"] | None = None
    pieces: int = 1
    mask: Bool[Tensor, "b n"] | None = None
    special: Bool[Tensor, "b n"] | None = None
    grid: tuple[int, int] | None = None
    window: int = 1


class PoNetMixer(nn.Module):
    """Pooling of three granularities in the place of attention.

    Args:
        dim: channels.
        heads: that divide them.
        kernel: neighbours that are pooled.
    """

    def __init__(self, dim: int, heads: int, kernel: int = 3) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.maps = nn.Linear(dim, 5 * dim)
        self.proj = nn.Linear(dim, dim)

    def mix(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """The fused poolings, 0 for padding, before the last product."""
        q, k, o, segment, local = self.maps(x).chunk(5, -1)
        absent, special = None if places.mask is None else ~places.mask[..., None], places.special
        if absent is not None:
            segment, local = segment.masked_fill(absent, FILLER), local.masked_fill(absent, FILLER)
        if special is not None:
            local = local.masked_fill(special[..., None], FILLER)
        segment, local = self._segments(segment, places), self._neighbours(local, places)
        if special is not None:
            segment, local = (part.masked_fill(special[..., None], 0.0) for part in (segment, local))
        mixed = (self._whole(q, k, places.mask) + segment) * o + local
        return mixed if absent is None else mixed.masked_fill(absent, 0.0)

    def _whole(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Float[Tensor, "b 1 d"]:
        """What the mean query finds among the keys, which are the values as well."""
        bias = None
        if mask is None:
            mean = q.mean(1, keepdim=True)
        else:
            count = mask.sum(1).clamp(min=1)[:, None, None]
            mean = q.masked_fill(~mask[..., None], 0.0).sum(1, keepdim=True) / count
            bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, FILLER)[:, None, None]
        query, keys = (rearrange(part, "b n (h c) -> b h n c", h=self.heads) for part in (mean, k))
        found = F.scaled_dot_product_attention(query, keys, keys, attn_mask=bias)
        return rearrange(found, "b h n c -> b n (h c)")

    def _segments(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        if places.grid is not None:
            return window_max(x.unflatten(1, places.grid), places.window).flatten(1, 2)
        if places.segments is not None:
            return segment_max(x, places.segments)
        return piece_max(x, places.pieces)

    def _neighbours(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        if places.grid is None:
            return local_max(x, self.kernel)
        return local_max(x.unflatten(1, places.grid), self.kernel).flatten(1, 2)

    def forward(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """Every token mixed with all, with its segment and with its neighbours."""
        return self.proj(self.mix(x, places))


class PoNetBlock(nn.Module):
    """A mixer and an MLP, each with its residual and a norm before the branch or after the sum.

    Args:
        dim: channels.
        heads: that divide them.
        hidden: channels of the MLP.
        pre_norm: norms before the branches; else after the sums.
        kernel: neighbours that are pooled.
        eps: of both norms.
        dropout: of both branches.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        pre_norm: bool = False,
        kernel: int = 3,
        eps: float = 1e-12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.mixer, self.mlp = PoNetMixer(dim, heads, kernel), Mlp(dim, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """The first half: tokens are mixed."""
        if self.pre_norm:
            return x + self.dropout(self.mixer(self.norm1(x), places))
        return self.norm1(x + self.dropout(self.mixer(x, places)))

    def forward(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """Both halves."""
        x = self.attend(x, places)
        if self.pre_norm:
            return x + self.dropout(self.mlp(self.norm2(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))
