"""How a gradient passes from a code to the vector it replaced."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Gradient = Literal["straight-through", "rotation"]


def pass_gradient(
    vectors: Float[Tensor, "*batch d"],
    codes: Float[Tensor, "*batch d"],
    gradient: Gradient = "straight-through",
) -> Float[Tensor, "*batch d"]:
    """The codes exactly, with a gradient for the vectors.

    `straight-through` hands the gradient on as it is; `rotation` (Fifty et al., 2024, arXiv 2410.06424) turns
    and scales it by the map that takes each vector to its code, so that its angle to the code stays.
    """
    carried = vectors if gradient == "straight-through" else _rotated(vectors, codes.detach())
    return codes.detach() + (carried - carried.detach())


def _rotated(vectors: Tensor, codes: Tensor) -> Tensor:
    """Each vector under the reflection-built rotation, held fixed, that takes its direction to its code's."""
    with torch.no_grad():
        length = vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        reach = codes.norm(dim=-1, keepdim=True)
        source, target = vectors / length, codes / reach.clamp(min=1e-6)
        between = F.normalize(source + target, dim=-1, eps=1e-6)
    mirrored = vectors - 2 * (vectors * between).sum(-1, keepdim=True) * between
    turned = mirrored + 2 * (vectors * source).sum(-1, keepdim=True) * target
    return turned * (reach / length)
