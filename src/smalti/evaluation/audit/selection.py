"""Which tokens are left: where they lie, how well they cover the picture, how alike they are.

```
source map [b n] ─► centres [b m 2], in patches ─► rows, columns, centre of mass, coverage
tokens [b m d] ──► diversity            positions of two runs ─► overlap
```
A token lies at the mean place of the patches that went to it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def centres(
    source_map: Int[Tensor, "b n"], count: int, grid: tuple[int, int], prefix: int
) -> Float[Tensor, "b m 2"]:
    """Row and column of every remaining token; NaN for tokens without a patch.

    Args:
        source_map: of a reduction; the last rows × columns of its tokens are the patches.
        count: tokens that are left.
        grid: rows and columns.
        prefix: remaining tokens in front that are no patches.
    """
    rows, columns = grid
    went = source_map[:, -rows * columns :]
    index = torch.arange(rows * columns, device=went.device)
    place = torch.stack([index // columns, index % columns], -1).double().expand(len(went), -1, -1)
    sums = place.new_zeros(len(went), count + 1, 3)
    target = torch.where(went >= 0, went, count)[..., None].expand(-1, -1, 3)
    sums = sums.scatter_add(1, target, torch.cat([place, torch.ones_like(place[..., :1])], -1))
    found = sums[..., :2] / sums[..., 2:]  # 0 / 0 is NaN
    return found[:, prefix:count]


def histogram(centres: Float[Tensor, "b m 2"], axis: int, size: int) -> tuple[float, ...]:
    """Share of the tokens in every row (axis 0) or column (axis 1); one between two counts in both."""
    values = centres[..., axis].flatten()
    values = values[~values.isnan()]
    low = values.floor().long()
    upper = values - low
    total = values.new_zeros(size + 1).scatter_add(0, low, 1 - upper).scatter_add(0, low + 1, upper)
    return tuple((total[:size] / max(len(values), 1)).tolist())


def middle(centres: Float[Tensor, "b m 2"], grid: tuple[int, int]) -> tuple[float, float]:
    """Centre of mass of the tokens, (0, 0) at the upper left, (1, 1) at the lower right, 0.5 without bias."""
    row, column = centres.flatten(0, 1).nanmean(0).tolist()
    return row / max(grid[0] - 1, 1), column / max(grid[1] - 1, 1)


def coverage(centres: Float[Tensor, "b m 2"], grid: tuple[int, int]) -> float:
    """Mean distance of any patch to the nearest token, in patches; 0 when every patch is one."""
    rows, columns = grid
    index = torch.arange(rows * columns, device=centres.device)
    place = torch.stack([index // columns, index % columns], -1).to(centres)
    each = []
    for one in centres:
        there = one[~one.isnan().any(1)]
        each.append(torch.cdist(place, there).amin(1).mean() if len(there) else centres.new_tensor(math.nan))
    return torch.stack(each).mean().item()


def likeness(tokens: Float[Tensor, "b m d"], mask: Bool[Tensor, "b m"]) -> float:
    """Mean cosine of any two of the remaining tokens of a picture: lower is more diverse."""
    unit = F.normalize(tokens.double(), dim=-1) * mask[..., None]
    number = mask.sum(1).double()
    pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return (pairs / (number * (number - 1))).nanmean().item()


def overlap(first: Bool[Tensor, "b n"], second: Bool[Tensor, "b n"]) -> float:
    """Patches that two runs both kept, as a share of what they kept together; mean over pictures."""
    both, either = (first & second).sum(1).double(), (first | second).sum(1).double()
    return (both / either.clamp(min=1)).mean().item()


def rank_correlation(first: Float[Tensor, "n"], second: Float[Tensor, "n"]) -> float:
    """Spearman's, equal values sharing their mean rank; NaN where either is constant."""
    a, b = (_ranks(x) - (len(x) - 1) / 2 for x in (first, second))
    scale = a.norm() * b.norm()
    return (a @ b / scale).item() if scale > 0 else math.nan


def _ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    below = (values[:, None] > values[None]).double().sum(1)
    equal = (values[:, None] == values[None]).double().sum(1)
    return below + (equal - 1) / 2
