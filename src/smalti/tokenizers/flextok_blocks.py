"""The blocks of FlexTok, the places of its patches, and what its registers may see.

```
x ─► norm ─► attention of normed queries and keys ─► + ─► norm ─► gated MLP ─► +
      └ scaled, shifted and gated by a time, patches and registers apart ┘
```
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.adaptive_norm import Modulation, modulate
from smalti.nn.gated_mlp import GatedMlp
from smalti.nn.sincos_positions import line_positions


def plain_norm(dim: int) -> nn.LayerNorm:
    """A norm without weights."""
    return nn.LayerNorm(dim, 1e-5, elementwise_affine=False)


class NormedAttention(nn.Module):
    """Attention of normed queries and keys, without biases; logits are scaled by 8 / channels of a head."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        if dim % head_dim:
            raise ConfigError(f"heads of {head_dim} channels do not divide {dim}")
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.norm = plain_norm(head_dim)

    def forward(self, x: Float[Tensor, "b n d"], allowed: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Attend; `allowed` [n n] is True where attention may go."""
        (c,) = self.norm.normalized_shape
        q, k, v = (rearrange(part(x), "b n (h c) -> b h n c", c=c) for part in (self.q, self.k, self.v))
        q, k = self.norm(q), self.norm(k)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=8.0 / c)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))


class FlexBlock(nn.Module):
    """A pre-norm block of FlexTok; a time modulates patches and registers apart, where there is one."""

    def __init__(self, dim: int, head_dim: int, timed: bool) -> None:
        super().__init__()
        self.norm = plain_norm(dim)
        self.attn = NormedAttention(dim, head_dim)
        self.mlp = GatedMlp(dim, int(2 * 4 * dim / 3))
        self.modulation = Modulation(dim, 6, groups=2) if timed else None

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        allowed: Tensor | None = None,
        time: Tensor | None = None,
        counts: tuple[int, ...] = (),
    ) -> Float[Tensor, "b n d"]:
        """Attention, then the MLP; `counts` are the patches and registers that `time` [b d] modulates."""
        if self.modulation is None or time is None:
            x = x + self.attn(self.norm(x), allowed)
            return x + self.mlp(self.norm(x))
        gate, gate_mlp, shift, scale, shift_mlp, scale_mlp = self.modulation(time, counts)
        x = x + gate * self.attn(modulate(self.norm(x), shift, scale), allowed)
        return x + gate_mlp * self.mlp(modulate(self.norm(x), shift_mlp, scale_mlp))


def grid_places(rows: int, columns: int, dim: int) -> Float[Tensor, "n d"]:
    """Sines and cosines as official: counted down columns but laid out row by row, so transposed in a square.

    Where the grid is no square they name every place once still, but neighbours lie apart.
    """
    place = torch.arange(rows * columns)
    return torch.cat([line_positions(place // rows, dim // 2), line_positions(place % rows, dim // 2)], 1)


def causal_last(patches: int, registers: int) -> Bool[Tensor, "n n"]:
    """True where attention may go: patches see patches, register i sees patches and registers up to i."""
    allowed = torch.ones(patches + registers, patches + registers, dtype=torch.bool).tril()
    allowed[:, :patches] = True
    return allowed
