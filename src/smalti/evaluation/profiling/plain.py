"""The plain transformer that a backbone is measured beside: patches, then blocks of fused attention."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from smalti.evaluation.profiling.contender import PATCH
from smalti.nn.transformer import Block

HEAD = 64  # channels
DEPTH = 12  # that the width is chosen for
WIDEST = 2048


class PlainTransformer(nn.Module):
    """Patches of 16 × 16 pixels of every frame, all in one sequence → their mean after some blocks.

    Args:
        width: channels, a multiple of 64.
        depth: blocks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, width, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, clip: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        """The mean of all tokens."""
        return self.norm(self.blocks(self.patches(clip).flatten(2).mT)).mean(1)


def plain_of(parameters: int) -> PlainTransformer:
    """The plain transformer of about so many parameters: the best width for 12 blocks, then the depth."""

    def outside(width: int) -> int:
        return (3 * PATCH * PATCH + 3) * width

    def block(width: int) -> int:
        return 12 * width * width + 13 * width

    def miss(width: int) -> int:
        return abs(outside(width) + DEPTH * block(width) - parameters)

    width = min(range(HEAD, WIDEST + 1, HEAD), key=miss)
    return PlainTransformer(width, max(round((parameters - outside(width)) / block(width)), 1))
