"""Llama's blocks with rotary places on a grid, as class-conditional generators of pictures use them.

```
x [b n d] ─┬─► RMS norm ─► q, k turned by place, v ─► causal attention ─┬─►┬─► RMS norm ─► gated MLP ─┬─►
           └────────────────────────────────────────────────────────────┘  └──────────────────────────┘
```
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.causal_conv import State
from smalti.nn.gated_mlp import GatedMlp


def grid_turns(
    side: int, channels: int, base: float = 10000.0, silent_first: bool = False
) -> Float[Tensor, "n pairs 2"]:
    """Cosine and sine of every place: of one in front of the grid, then row by row.

    The first half of the pairs of channels turns with the row, the second with the column.

    Args:
        side: of the grid.
        channels: of a head.
        base: of the wavelengths.
        silent_first: the place in front has cosine 0 instead of 1, which erases its queries and keys.
    """
    quarter = channels // 4
    frequency = base ** (-2 * torch.arange(quarter).float() / (channels // 2))
    angle = torch.arange(side).float()[:, None] * frequency
    rows, columns = angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)
    turns = torch.cat([rows, columns], -1).flatten(0, 1)
    grid = torch.stack([turns.cos(), turns.sin()], -1)
    first = torch.zeros_like(grid[:1])
    first[..., 0] = 0.0 if silent_first else 1.0
    return torch.cat([first, grid])


def turn(x: Float[Tensor, "b h n c"], turns: Float[Tensor, "n pairs 2"]) -> Float[Tensor, "b h n c"]:
    """Pairs of neighbouring channels turned, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns.unbind(-1)
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
    return turned.flatten(-2).to(x.dtype)


class RotaryBlock(nn.Module):
    """Causal attention by turned places, then a gated MLP.

    Args:
        dim: channels.
        heads: of the attention; their channels come in fours.
        hidden: channels of the MLP.
        dropout: of both branches, in training.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % (4 * heads):
            raise ConfigError(f"{heads} heads do not divide {dim} channels into fours")
        self.heads = heads
        self.norm1, self.norm2 = (nn.RMSNorm(dim, 1e-5) for _ in range(2))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.mlp = GatedMlp(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def attend(
        self, x: Float[Tensor, "b n d"], turns: Float[Tensor, "n pairs 2"], state: State | None
    ) -> Float[Tensor, "b n d"]:
        """What attention adds; with a state that holds a past, for the next token alone."""
        q, k, v = rearrange(self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        q, k = turn(q, turns), turn(k, turns)
        past = None if state is None else state.get(self)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if state is not None:
            state[self] = (k, v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))

    def forward(
        self, x: Float[Tensor, "b n d"], turns: Float[Tensor, "n pairs 2"], state: State | None = None
    ) -> Float[Tensor, "b n d"]:
        """Both halves."""
        x = x + self.dropout(self.attend(self.norm1(x), turns, state))
        return x + self.dropout(self.mlp(self.norm2(x)))
