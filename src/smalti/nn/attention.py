"""What attention says of its tokens, beside the fused kernel: received attention and whole maps.

```
queries, keys [b h n d] ──► softmax(q kᵀ · scale + bias) of some rows ──► mean over heads and rows [b n]
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, nearest
from smalti.nn.clustering import chunked

QUERIES = ("all", "class", "last")


def attention_map(
    q: Float[Tensor, "b h m d"],
    k: Float[Tensor, "b h n d"],
    scale: float,
    bias: Float[Tensor, "b #h #m n"] | None = None,
) -> Float[Tensor, "b h m n"]:
    """The softmax of some rows of the logits, in float32."""
    logits = (q.float() * scale) @ k.float().mT
    return (logits if bias is None else logits + bias).softmax(-1)


def received(
    q: Float[Tensor, "b h m d"],
    k: Float[Tensor, "b h n d"],
    scale: float,
    bias: Float[Tensor, "b #h #m n"] | None = None,
    queries: str = "class",
) -> Float[Tensor, "b n"]:
    """Mean attention that every token receives from the first token, the last one, or all.

    Only the rows asked for are computed; "all" goes through them in chunks.

    Raises:
        ConfigError: unknown queries.
    """
    if queries not in QUERIES:
        raise ConfigError(f"no queries {queries!r}: {nearest(queries, QUERIES)}")
    rows = q.shape[2]

    def shares(part: slice) -> Float[Tensor, "b n"]:
        own = bias[:, :, part] if bias is not None and bias.shape[2] > 1 else bias
        return attention_map(q[:, :, part], k, scale, own).mean(1).sum(1)

    if queries != "all":
        return shares(slice(0, 1) if queries == "class" else slice(rows - 1, rows))
    total = q.new_zeros(k.shape[0], k.shape[2], dtype=torch.float32)
    for part in chunked(rows, k.shape[2] * k.shape[1] * k.shape[0]):
        total = total + shares(part)
    return total / rows
