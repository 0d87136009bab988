"""A bias of attention from where two tokens are, computed some rows at a time.

```
offsets of a grid, sign(d)·log(1+|d|) ──► MLP ──► table ──► rows(part) [1 heads m n]     ContinuousBias
−slope · |i − j|, nothing of the future ───────────────► rows(part) [1 heads m n]        past_bias
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Rows = Callable[[slice], Tensor]


class ContinuousBias(nn.Module):
    """A small network of the log-spaced offset of two places of a grid (Swin v2: Liu et al., 2021).

    Args:
        dim: hidden channels.
        heads: of the attention.
        axes: of the grid.
    """

    def __init__(self, dim: int, heads: int, axes: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(axes, dim),
            nn.LeakyReLU(0.1),
            nn.Linear(dim, dim),
            nn.LeakyReLU(0.1),
            nn.Linear(dim, heads),
        )

    def forward(self, size: Sequence[int]) -> Rows:
        """What to add to the logits of some queries [1 heads m n], the grid row by row.

        The network runs once for every offset there is, not for every pair.
        """
        weight = next(self.net.parameters())
        steps = [torch.arange(1 - length, length, device=weight.device) for length in size]
        offsets = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flatten(0, -2)
        table = self.net((offsets.sign() * offsets.abs().log1p()).to(weight.dtype))
        number = torch.zeros(1, dtype=torch.long, device=weight.device)
        for length in size:
            place = torch.arange(length, device=weight.device)
            number = (number[:, None] * (2 * length - 1) + place).flatten()
        middle = len(offsets) // 2
        return lambda part: rearrange(table[number[part, None] - number + middle], "m n h -> 1 h m n")


def linear_slopes(heads: int) -> Float[Tensor, "heads"]:
    """Slopes 2^(−8k/heads), k = 1 … heads (ALiBi: Press et al., 2021, arXiv 2108.12409).

    Where heads are no power of two: those of the power below, then every second of the power above.
    """
    power = 2 ** (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * torch.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * torch.arange(1, 2 * power, 2) / power)
    return torch.cat([slopes, between[: heads - power]])


def past_bias(
    slopes: Float[Tensor, "heads"], queries: int, keys: int, lookback: int | None, like: Tensor
) -> Rows:
    """A bias that falls with distance into the past and forbids the future.

    Args:
        slopes: of every head; zeros where distance does not count.
        queries: the last of the keys.
        keys: all there are.
        lookback: places that a query sees, its own with them; all before it when not given.
        like: has the type and device of the bias.
    """
    key = torch.arange(keys, device=like.device)
    slopes = slopes.to(like)

    def rows(part: slice) -> Tensor:
        distance = (key[keys - queries :][part, None] - key)[None]
        seen = (distance >= 0) & (distance < (lookback or keys))
        bias = -slopes[:, None, None] * distance
        return bias.masked_fill(~seen, -torch.inf)[None]

    return rows
