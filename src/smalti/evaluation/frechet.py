"""Fréchet distance between two sets of features, each taken for a Gaussian.

```
features [n d] ──► mean μ, factor A with AᵀA = covariance ─┐
                                                           ├──► |μ - μ'|² + tr AᵀA + tr BᵀB - 2 ‖A Bᵀ‖₊
features [m d] ──► mean μ', factor B ──────────────────────┘
```

The trace of the root of the product of covariances is the sum of singular values of A Bᵀ, so no covariance
and no matrix root is formed, and fewer samples than dimensions need no regularisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import MediaError


class Frechet(NamedTuple):
    """A distance and the samples behind it.

    Attributes:
        distance: 0 for equal sets; no upper end.
        samples: of the smaller set.
        dimensions: of a feature.
    """

    distance: float
    samples: int
    dimensions: int

    @property
    def note(self) -> str:
        """What to keep in mind with so few samples; empty if there are enough."""
        if self.samples > self.dimensions:
            return ""
        return (
            f"{self.samples} samples in {self.dimensions} dimensions: the distance depends on their number, "
            "so compare only with distances from as many samples of the same pictures"
        )


def frechet(reference: Float[Tensor, "n d"], candidate: Tensor) -> Frechet:
    """The distance of features [n d] and [m d], in double precision.

    Raises:
        MediaError: fewer than two samples, or features of different size.
    """
    if min(len(reference), len(candidate)) < 2:
        raise MediaError(
            f"a Fréchet distance needs two samples a side, not {len(reference)}, {len(candidate)}"
        )
    if reference.shape[1] != candidate.shape[1]:
        raise MediaError(f"features of {reference.shape[1]} and {candidate.shape[1]} numbers do not compare")
    mean_a, a = _moments(reference)
    mean_b, b = _moments(candidate)
    root = torch.linalg.svdvals(a @ b.T).sum()
    distance = (mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum() - 2 * root
    samples = min(len(reference), len(candidate))
    return Frechet(max(distance.item(), 0.0), samples, reference.shape[1])


def _moments(features: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """The mean [d] and the factor [k d] of the covariance, k no larger than it must be."""
    features = features.double()
    mean = features.mean(0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return mean, factor
