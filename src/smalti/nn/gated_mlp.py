"""An MLP whose hidden channels are gated: SwiGLU (Shazeer, 2020, arXiv 2002.05202)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class GatedMlp(nn.Module):
    """out(silu(gate x) · value x).

    Args:
        dim: channels.
        hidden: channels between.
        bias: of the three products.
    """

    def __init__(self, dim: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.value = nn.Linear(dim, hidden, bias=bias)
        self.out = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Every token by itself."""
        return self.out(F.silu(self.gate(x)) * self.value(x))
