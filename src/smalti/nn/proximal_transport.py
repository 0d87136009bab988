"""How far two sets of tokens are apart, by inexact proximal optimal transport (IPOT; Xie et al., 2018).

```
words [b m d], patches [b n d] ─► cosine distances [b m n] ─► plan (no gradient) ─► Σ plan · distance [b]
```
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

FAR = 1e4  # keeps padded tokens out of the scales


@torch.no_grad()
def proximal_plan(
    cost: Float[Tensor, "b m n"],
    rows: Bool[Tensor, "b m"],
    columns: Bool[Tensor, "b n"],
    beta: float = 0.5,
    steps: int = 50,
) -> Float[Tensor, "b m n"]:
    """Shares of mass that go from every row to every column; real rows weigh the same, so do real columns.

    Args:
        cost: of every pair, 0 where one is not real.
        rows: that are real.
        columns: that are real.
        beta: strength of the proximal step.
        steps: of it.
    """
    real = rows[:, :, None] & columns[:, None]
    height, width = (side.sum(1)[:, None].to(cost.dtype) for side in (rows, columns))
    kernel, plan = (-cost / beta).exp() * real, real.to(cost.dtype)
    off_rows, off_columns = ((~side).to(cost.dtype) * FAR for side in (rows, columns))
    scale = rows / height
    for _ in range(steps):
        mixed = kernel * plan
        other = 1 / (width * torch.einsum("bmn,bm->bn", mixed, scale) + off_columns)
        scale = 1 / (height * torch.einsum("bmn,bn->bm", mixed, other) + off_rows)
        plan = scale[:, :, None] * mixed * other[:, None]
    return plan * real


def transport_distance(
    x: Float[Tensor, "b m d"],
    y: Float[Tensor, "b n d"],
    x_mask: Bool[Tensor, "b m"],
    y_mask: Bool[Tensor, "b n"],
    beta: float = 0.5,
    steps: int = 50,
) -> Float[Tensor, "b"]:
    """Cosine distance that mass travels from one set to the other; both need a real token."""
    unit = [F.normalize(part.float(), dim=-1, eps=1e-5) for part in (x, y)]
    cost = (1 - unit[0] @ unit[1].mT) * (x_mask[:, :, None] & y_mask[:, None])
    return (proximal_plan(cost.detach(), x_mask, y_mask, beta, steps) * cost).sum((1, 2))
