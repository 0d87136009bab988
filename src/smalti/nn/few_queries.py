"""Cross-attention of few queries, without keys and values of the tokens that they read.

```
x [m d] ─► q [h m c] ─► q · wk ──► questions in the tokens' own channels [h m d] ──┐
other [n d] ─────────────────────────────────────────► softmax over n ◄────────────┘
proj ◄─ wv of every head ◄─ means of other, one a head [h m d] ◄──────┘
```
The same numbers as `CrossAttention`, for 2·m·h·n·d multiply-adds instead of 2·n·d². The bias of the keys
moves all logits of a question alike and so falls out.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from smalti.nn.transformer import CrossAttention


class FewQueryAttention(CrossAttention):
    """A few tokens ask many; worth it where queries times heads are fewer than channels."""

    def forward(
        self, x: Float[Tensor, "b m d"], other: Float[Tensor, "b n e"], bias: Tensor | None = None
    ) -> Float[Tensor, "b m d"]:
        """Every token of `x` asks all of `other`; `bias` [b|1 h|1 m|1 n] is added to the logits."""
        keys, values = self.kv.weight.unflatten(0, (2, self.heads, -1))
        q = rearrange(self.q(x), "b m (h c) -> b h m c", h=self.heads) * keys.shape[1] ** -0.5
        questions = torch.einsum("bhmc,hce->bhme", q, keys)
        logits = questions.flatten(1, 2) @ other.mT
        if bias is not None:
            logits = (logits.unflatten(1, q.shape[1:3]) + bias).flatten(1, 2)
        means = (logits.softmax(-1) @ other).unflatten(1, q.shape[1:3])
        read = rearrange(torch.einsum("bhme,hce->bhmc", means, values), "b h m c -> b m (h c)")
        return self.proj(read if self.kv.bias is None else read + self.kv.bias.chunk(2)[1])
