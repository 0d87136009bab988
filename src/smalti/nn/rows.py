"""Rows of every sample of a batch taken and added up, as rows of one long matrix: several times as fast.

```
x [b n d], index [b m] ── take ──► [b m d]        x [b n d], group [b n] ── total ──► sums [b k d]
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _flat(index: Int[Tensor, "b m"], size: int) -> Int[Tensor, "bm"]:
    """Positions in the samples laid one after the other."""
    first = torch.arange(index.shape[0], device=index.device) * size
    return (index + first[:, None]).flatten()


def take(x: Float[Tensor, "b n d"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """Some rows of every sample."""
    return x.flatten(0, 1).index_select(0, _flat(index, x.shape[1])).unflatten(0, index.shape)


def total(x: Float[Tensor, "b n d"], group: Int[Tensor, "b n"], count: int) -> Float[Tensor, "b k d"]:
    """Sums of the rows of every group 0 … count-1, zeros where there are none."""
    sums = x.new_zeros(x.shape[0] * count, x.shape[2])
    return sums.index_add(0, _flat(group, count), x.flatten(0, 1)).unflatten(0, (x.shape[0], count))
