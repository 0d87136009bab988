"""Blocks that a time modulates: adaLN-zero (Peebles and Xie, 2023, arXiv 2212.09748).

```
time [b] ─► cosines, sines ─► MLP ─► embedding [b d] ─► silu ─► linear, from zero ─► parts [b n d]
x + gate · f(norm(x) · (1 + scale) + shift)
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector.

    Args:
        dim: channels of the vector.
        waves: cosines and sines together.
        period: longest wave over the shortest; the shortest turns 1,000 radians in [0, 1].
    """

    def __init__(self, dim: int, waves: int = 256, period: float = 256.0) -> None:
        super().__init__()
        self.waves, self.period = waves, period
        self.enter = nn.Linear(waves, dim)
        self.leave = nn.Linear(dim, dim)

    def forward(self, time: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """The embedding of every sample's time."""
        half = self.waves // 2
        order = torch.arange(half, device=time.device, dtype=torch.float32) / half
        angle = time.float()[:, None] * 1000.0 * torch.exp(-math.log(self.period) * order)
        waves = torch.cat([angle.cos(), angle.sin()], 1).to(self.enter.weight.dtype)
        return self.leave(F.silu(self.enter(waves)))


class Modulation(nn.Module):
    """What a time does to tokens: some vectors for each group of them, zero at the start.

    Args:
        dim: channels.
        parts: vectors a token: scales, shifts, gates.
        groups: of tokens with modulations of their own.
    """

    def __init__(self, dim: int, parts: int, groups: int = 1) -> None:
        super().__init__()
        self.parts, self.groups = parts, groups
        self.linear = nn.Linear(dim, groups * parts * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, time: Float[Tensor, "b d"], counts: Sequence[int]) -> tuple[Tensor, ...]:
        """Every part as [b n d], n being the sum of the groups' counts of tokens."""
        found = self.linear(F.silu(time)).unflatten(1, (self.groups, self.parts, -1))
        by_token = found.repeat_interleave(torch.tensor(counts, device=time.device), dim=1)
        return by_token.unbind(2)


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b n d"], scale: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """Scaled by one plus `scale`, then shifted."""
    return x * (1 + scale) + shift
