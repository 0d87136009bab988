"""Structural similarity: the terms of SSIM, and MS-SSIM as a loss.

```
x, y ──► window means of x, y, x² + y², x·y ──► contrast, luminance ──► mean a scale ──► product over scales
```
The window is a sum of shifted frames, one axis at a time: float32 also under autocast, where a convolution or
a matrix product would lose the small differences that a variance is made of.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
LUMINANCE_FLOOR, CONTRAST_FLOOR = 0.01**2, 0.03**2


def gaussian_window(size: int = WINDOW) -> list[float]:
    """The normalised Gaussian window along one axis."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    return (weights / weights.sum()).tolist()


def window_means(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
    """Means under the window wherever it fits; in axes shorter than the window, under a shorter one."""
    for axis in (2, 3):
        size = x.shape[axis]
        window = min(WINDOW, size if size % 2 else size - 1)
        first, *others = gaussian_window(window)
        length = size - window + 1
        total = x.narrow(axis, 0, length) * first
        for shift, weight in enumerate(others, start=1):
            total.add_(x.narrow(axis, shift, length), alpha=weight)
        x = total
    return x


def similarity_terms(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b c i j"], Float[Tensor, "b c i j"]]:
    """Contrast (with structure) and luminance at every place of the window; SSIM is their product.

    Pixels are in [0, 1].
    """
    mean_x, mean_y = window_means(x), window_means(y)
    squared, crossed = mean_x.square() + mean_y.square(), mean_x * mean_y
    variance = (window_means(x.square() + y.square()) - squared).clamp(min=0)
    covariance = window_means(x * y) - crossed
    contrast = (2 * covariance + CONTRAST_FLOOR) / (variance + CONTRAST_FLOOR)
    return contrast, (2 * crossed + LUMINANCE_FLOOR) / (squared + LUMINANCE_FLOOR)


def multiscale_similarity(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], scales: int = 4
) -> Float[Tensor, "b"]:
    """MS-SSIM (Wang et al., 2003) over as many scales as training crops hold, in float32.

    The five official weights are cut to `scales` and made to sum to one, so the figure is a loss, not a
    score to publish. Pixels are in [0, 1].
    """
    weights = torch.tensor(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    x, y = x.float(), y.float()
    total = x.new_ones(len(x))
    for scale, weight in enumerate(weights.tolist()):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        contrast, luminance = similarity_terms(x, y)
        value = contrast * luminance if scale == scales - 1 else contrast
        total = total * value.mean((1, 2, 3)).clamp(min=1e-3) ** weight
    return total
