"""Structural similarity as a loss: windows by two small matrix products, so gradients are cheap."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def gaussian_bands(size: int, window: int = 11, sigma: float = 1.5) -> Float[Tensor, "size valid"]:
    """A matrix whose columns hold the normalised Gaussian window at every place where it fits."""
    window = min(window, size if size % 2 else size - 1)
    offsets = torch.arange(window) - window // 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    bands = torch.zeros(size, size - window + 1)
    for shift, weight in enumerate(weights / weights.sum()):
        bands.diagonal(-shift).fill_(float(weight))
    return bands


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
        contrast, luminance = _terms(x, y)
        value = contrast * luminance if scale == scales - 1 else contrast
        total = total * value.mean((1, 2, 3)).clamp(min=1e-3) ** weight
    return total


def _terms(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
    rows, columns = gaussian_bands(x.shape[-2]).to(x).T, gaussian_bands(x.shape[-1]).to(x)
    mean_x, mean_y, squares, product = (rows @ p @ columns for p in (x, y, x * x + y * y, x * y))
    both = mean_x.square() + mean_y.square()
    contrast = (2 * (product - mean_x * mean_y) + 0.03**2) / ((squares - both).clamp(min=0) + 0.03**2)
    return contrast, (2 * mean_x * mean_y + 0.01**2) / (both + 0.01**2)
