"""Distances of pictures, pixel by pixel and in the features of a trained network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError, nearest
from smalti.nn.gram_loss import gram_loss
from smalti.training.losses.vgg import VGG16, Trunk, apart

EDGE = 0.1  # of the logit-Laplace's range: pixels are squeezed into [0.1, 0.9] (Ramesh et al., 2021)

Pixels = Float[Tensor, "b 3 t h w"]


def absolute(pixels: Pixels, rebuilt: Pixels) -> Float[Tensor, ""]:
    """Mean absolute error."""
    return (pixels - rebuilt).abs().mean()


def squared(pixels: Pixels, rebuilt: Pixels) -> Float[Tensor, ""]:
    """Mean squared error."""
    return (pixels - rebuilt).square().mean()


def logit_laplace(pixels: Pixels, rebuilt: Pixels, scale: float = 0.2) -> Float[Tensor, ""]:
    """Negative log-likelihood of pixels under a Laplace of fixed scale on their logits (DALL-E, 2021)."""
    x = pixels * (1 - 2 * EDGE) + EDGE
    centre = rebuilt.clamp(0, 1) * (1 - 2 * EDGE) + EDGE + (rebuilt - rebuilt.clamp(0, 1))
    centre = centre.clamp(1e-3, 1 - 1e-3)
    return ((x.logit() - centre.logit()).abs() / scale + (2 * scale * x * (1 - x)).log()).mean()


PIXEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": absolute,
    "l2": squared,
    "logit-laplace": logit_laplace,
}


def pixel_distance(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A distance by name: "l1", "l2" or "logit-laplace".

    Raises:
        ConfigError: another name.
    """
    if name not in PIXEL:
        raise ConfigError(f"no distance {name!r}: {nearest(name, PIXEL)}")
    return PIXEL[name]


class Perceptual(nn.Module):
    """Distance of pictures in VGG16's features, position by position and by their correlations (Gram).

    ```
    pixels ──► trunk ──► unit vectors a, rebuilt ──► b     distance: heads · (a − b)², mean over positions
                                                            gram:     (aᵀa − bᵀb)², `nn.gram_loss`
    ```
    Without `heads` every channel counts alike, and the distance is not LPIPS. With the heads and the trunk of
    LPIPS, which a user may have, it is.

    Args:
        weights: of the trunk; those of `vgg.VGG16`, which are published in a package, when not given.
        heads: safetensors with `0 … 3`, a factor a channel at each depth.

    Raises:
        UnsupportedError: the published weights cannot be fetched.
    """

    def __init__(self, weights: dict[str, Tensor] | None = None, heads: str | Path | None = None) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.trunk.load_state_dict(VGG16.load() if weights is None else weights)
        self.heads: list[Tensor] | None = None
        if heads is not None:
            from safetensors.torch import load_file

            found = load_file(heads)
            self.heads = [found[str(depth)].view(-1, 1, 1) for depth in range(len(self.trunk.blocks))]
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        """It is not trained: its weights never move."""
        return super().train(False)

    def forward(self, pixels: Pixels, rebuilt: Pixels) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Distance, and distance of Gram matrices."""
        with torch.no_grad():
            wanted = self.trunk(_frames(pixels))
        found = self.trunk(_frames(rebuilt))
        gram = gram_loss(found, wanted)
        if self.heads is not None:
            factors = [head.to(wanted[0]).clamp(min=0).sqrt() for head in self.heads]
            wanted, found = (tuple(m * f for m, f in zip(x, factors, strict=True)) for x in (wanted, found))
        return apart(wanted, found).mean(), gram


def _frames(pixels: Pixels) -> Float[Tensor, "n 3 h w"]:
    return rearrange(pixels, "b c t h w -> (b t) c h w")
