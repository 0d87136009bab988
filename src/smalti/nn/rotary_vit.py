"""A plain transformer with rotary positions and gated MLPs; names of parameters as in ViTok.

```
x [b n d] ─► norm ─► attention, queries and keys turned by `angles` ─► + ─► norm ─► fc3(GELU(fc1) · fc2) ─► +
```
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.rotary_pairs import turn_pairs
from smalti.nn.transformer import Attention


class RotaryAttention(Attention):
    """Self-attention over whole sequences, or over what has come up to each frame."""

    def turned(
        self, x: Float[Tensor, "b n d"], angles: Tensor | None = None, frames: int = 1
    ) -> Float[Tensor, "b n d"]:
        """Attend.

        Args:
            x: tokens.
            angles: that queries and keys are turned by.
            frames: parts of the sequence, none of which sees a later one.
        """
        q, k, v = self.split(x)
        if angles is not None:
            q, k = turn_pairs(q, angles), turn_pairs(k, angles)
        ends = [x.shape[1] * (frame + 1) // frames for frame in range(frames)]
        parts = [
            F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        return self.proj(rearrange(torch.cat(parts, 2), "b h n c -> b n (h c)"))


class GatedGelu(nn.Module):
    """fc3(GELU(fc1 x) · fc2 x) (GEGLU: Shazeer, 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(dim, hidden)
        self.fc3 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Every token by itself."""
        return self.fc3(F.gelu(self.fc1(x)) * self.fc2(x))


class RotaryBlock(nn.Module):
    """Attention and a gated MLP, pre-norm and residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = RotaryAttention(dim, heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = GatedGelu(dim, int(dim * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "b n d"], angles: Tensor | None = None, frames: int = 1
    ) -> Float[Tensor, "b n d"]:
        """Both halves."""
        x = x + self.attn.turned(self.norm1(x), angles, frames)
        return x + self.mlp(self.norm2(x))


class RotaryTransformer(nn.Module):
    """Blocks and the norm after them.

    Args:
        dim: channels.
        depth: blocks.
        heads: of their attention.
        mlp_ratio: hidden channels of an MLP, as a factor.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float = 2.67) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RotaryBlock(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "b n d"], angles: Sequence[Tensor | None], frames: int = 1
    ) -> Float[Tensor, "b n d"]:
        """All blocks; `angles` are those of every block."""
        for block, turned in zip(self.blocks, angles, strict=True):
            x = block(x, turned, frames)
        return self.norm(x)
