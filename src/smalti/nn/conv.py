"""Convolutional residual blocks without normalisation over space: exact on tiles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def unit_norm(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Every position's channels scaled to a root mean square of one; no position sees another."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(norm(x)) · scale + shift)); starts as the identity. The relu leaks a tenth.

    ```
    x [b c h w] ─┬─► norm ─► conv 3×3 ─► × scale + shift ─► relu ─► conv 3×3 ─┬─► [b c h w]
                 └────────────────────────────────────────────────────────────┘
    ```
    Args:
        width: channels.
        conditions: how many (scale, shift) pairs to learn; each sample chooses one by its index.
    """

    def __init__(self, width: int, conditions: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 3, padding=1)
        self.leave = zero_init(nn.Conv2d(width, width, 3, padding=1))
        self.scale = nn.Parameter(torch.ones(conditions, width))
        self.shift = nn.Parameter(torch.zeros(conditions, width))

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        """`condition [b]` holds the index of each sample's scale and shift; the first when absent."""
        hidden = self.enter(unit_norm(x))
        row = slice(0, 1) if condition is None else condition
        scale, shift = (p[row, :, None, None].to(hidden) for p in (self.scale, self.shift))
        hidden = hidden * scale + shift
        return x + self.leave(F.leaky_relu(hidden, 0.1))


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution that starts by giving nothing, so what stands beside it speaks first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
