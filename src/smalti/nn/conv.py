"""Convolutional residual blocks without normalisation over space: exact on tiles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x) · scale + shift)); starts as the identity.

    ```
    x [b c h w] ─┬─► conv 3×3 ─► × scale + shift ─► relu ─► conv 3×3 ─┬─► [b c h w]
                 └────────────────────────────────────────────────────┘
    ```
    Args:
        width: channels.
        conditions: how many (scale, shift) pairs to learn; each sample chooses one by its index.
    """

    def __init__(self, width: int, conditions: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(conditions, width))
        self.shift = nn.Parameter(torch.zeros(conditions, width))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        """`condition [b]` holds the index of each sample's scale and shift; the first when absent."""
        hidden = self.enter(x)
        row = slice(0, 1) if condition is None else condition
        hidden = hidden * self.scale[row, :, None, None].to(hidden) + self.shift[row, :, None, None].to(
            hidden
        )
        return x + self.leave(torch.relu(hidden))

    radius = 2


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution that starts by giving nothing, so what stands beside it speaks first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
