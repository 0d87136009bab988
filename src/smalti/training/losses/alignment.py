"""Latents that say what a trained network sees: alignment with its features (Yu et al., 2025)."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Alignment(nn.Module):
    """1 − cosine of projected latents and frozen features, over tokens that are laid over each other.

    ```
    latents [b n d] ─► linear, SiLU, …, linear ─► to the features' count ─► cosine with features [b m f]
    ```
    Args:
        dim: channels of latents.
        features: channels of the frozen network's tokens.
        layers: linear ones, at least one; those inside are four times as wide as latents.
    """

    def __init__(self, dim: int, features: int, layers: int = 2) -> None:
        super().__init__()
        widths = [dim, *[4 * dim] * (layers - 1), features]
        parts: list[nn.Module] = []
        for enter, leave in pairwise(widths):
            parts += [nn.Linear(enter, leave), nn.SiLU()]
        self.project = nn.Sequential(*parts[:-1])

    def forward(self, latents: Float[Tensor, "b n d"], wanted: Float[Tensor, "b m f"]) -> Float[Tensor, ""]:
        """Tokens are resampled along their order where counts differ."""
        found = self.project(latents)
        if found.shape[1] != wanted.shape[1]:
            found = F.interpolate(found.mT, wanted.shape[1], mode="linear").mT
        return 1 - F.cosine_similarity(found.float(), wanted.detach().float(), dim=-1).mean()
