"""The Gram loss: what channels of features have to do with each other, compared (Gatys et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def gram(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Products of channels, over all places and divided by channels · rows · columns."""
    flat = maps.flatten(2).float()
    return flat @ flat.mT / flat[0].numel()


def gram_loss(
    found: Sequence[Float[Tensor, "b _c _h _w"]], wanted: Sequence[Float[Tensor, "b _c _h _w"]]
) -> Float[Tensor, ""]:
    """Squared distance of the Gram matrices of a network's layers, summed; mean over the batch.

    It asks for the texture of a picture without asking for its every grain, and so replaces a discriminator
    (AToken: Lu et al., 2025, arXiv 2509.14476).
    """
    layers = [
        (gram(ours) - gram(theirs)).square().sum((1, 2)) for ours, theirs in zip(found, wanted, strict=True)
    ]
    return torch.stack(layers).sum(0).mean()
