"""Attention of one query, without keys and values of the tokens that it reads.

```
x[0] ─► wq ─► q [h c] ─► q · wk ──► questions in the tokens' own channels [h d] ──┐
x [n d] ──────────────────────────────────────────────────► softmax over n ◄──────┘
proj ◄─ wv of every head ◄─ means of x, one a head [h d] ◄──────┘
```
The same numbers as with keys and values, for 2·h·n·d multiply-adds instead of 2·n·d².
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError


class SingleQueryAttention(nn.Module):
    """The first token asks all of a sequence, itself included.

    Args:
        dim: channels.
        heads: that divide them.
        qkv_bias: of the three products.
        scale: of the logits; one over the square root of a head's channels when not given.

    Raises:
        ConfigError: heads that do not divide the channels.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, scale: float | None = None) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"{heads} heads do not divide {dim} channels")
        self.heads = heads
        self.scale = scale or (dim // heads) ** -0.5
        self.wq = nn.Linear(dim, dim, bias=qkv_bias)
        self.wk = nn.Linear(dim, dim, bias=qkv_bias)
        self.wv = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
        """What the first token reads."""
        heads = (self.heads, -1)
        q = self.wq(x[:, 0]).unflatten(-1, heads) * self.scale
        questions = torch.einsum("bhc,hcd->bhd", q, self.wk.weight.unflatten(0, heads))
        logits = questions @ x.mT
        if self.wk.bias is not None:
            logits = logits + (q * self.wk.bias.unflatten(0, heads)).sum(-1, keepdim=True)
        seen = logits.softmax(-1) @ x
        read = torch.einsum("bhd,hcd->bhc", seen, self.wv.weight.unflatten(0, heads)).flatten(1)
        return self.proj(read if self.wv.bias is None else read + self.wv.bias)[:, None]
