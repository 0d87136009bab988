"""Fidelity: PSNR, SSIM and MS-SSIM, frame by frame.

```
reference [b 3 t h w] ─┐
                       ├──► psnr · ssim · ms_ssim ──► [b t]   one value a frame, higher is better
candidate [b 3 t h w] ─┘
```

Pixels are RGB in [0, 1]. The figure of a picture or clip is the mean over its frames, that of a data set the
mean over its pictures or clips. SSIM and MS-SSIM follow torchmetrics (Gaussian window of 11, sigma 1.5,
reflected borders) and run several times faster, because the window is applied one axis at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, MediaError, missing_extra, nearest
from smalti.nn.similarity import SCALE_WEIGHTS, WINDOW, similarity_terms

if TYPE_CHECKING:
    from torchmetrics import Metric

SMALLEST_SSIM_SIDE = WINDOW // 2 + 1
SMALLEST_MS_SSIM_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)

Pixels = Float[Tensor, "b 3 t h w"]


def psnr(reference: Pixels, candidate: Tensor) -> Float[Tensor, "b t"]:
    """Peak signal-to-noise ratio in dB; infinite where a frame is reproduced exactly.

    Raises:
        MediaError: the shapes differ.
    """
    _check_shapes(reference, candidate)
    error = (reference - candidate).square().mean(dim=(1, 3, 4))
    return -10 * torch.log10(error)


def ssim(reference: Pixels, candidate: Tensor) -> Float[Tensor, "b t"]:
    """Structural similarity; NaN for frames with a side under 6 pixels, which no window fits.

    Raises:
        MediaError: the shapes differ.
    """
    return _similarities(reference, candidate, scales=1)[0]


def ms_ssim(reference: Pixels, candidate: Tensor) -> Float[Tensor, "b t"]:
    """Structural similarity over five scales; NaN for frames with a side under 176 pixels.

    Fewer scales would give a figure that cannot be compared with others, so none is given.

    Raises:
        MediaError: the shapes differ.
    """
    return _similarities(reference, candidate, scales=len(SCALE_WEIGHTS))[1]


def fidelity(reference: Pixels, candidate: Tensor) -> dict[str, float]:
    """All three, as means over the frames, in one pass.

    Raises:
        MediaError: the shapes differ.
    """
    single, multiple = _similarities(reference, candidate, scales=len(SCALE_WEIGHTS))
    values = {"psnr": psnr(reference, candidate), "ssim": single, "ms_ssim": multiple}
    return {name: value.mean().item() for name, value in values.items()}


METRICS: dict[str, Callable[[Tensor, Tensor], Float[Tensor, "b t"]]] = {
    "psnr": psnr,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
}


def metric(name: str) -> Metric:
    """A torchmetrics `Metric` that gathers the mean over frames, also across processes.

    Raises:
        ConfigError: no such metric.
        UnsupportedError: torchmetrics is not installed.
    """
    if name not in METRICS:
        raise ConfigError(f"no metric {name!r}: {nearest(name, METRICS)}")
    try:
        from smalti.evaluation._torchmetrics import FrameMean
    except ImportError as error:
        raise missing_extra("torchmetrics", "eval") from error
    return FrameMean(METRICS[name])


def _check_shapes(reference: Tensor, candidate: Tensor) -> None:
    if reference.shape != candidate.shape:
        raise MediaError(
            f"reference {tuple(reference.shape)} and candidate {tuple(candidate.shape)} must have one shape"
        )


def _similarities(reference: Pixels, candidate: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    """SSIM and MS-SSIM over `scales` scales, each [b t]."""
    _check_shapes(reference, candidate)
    batch, _, frames, height, width = reference.shape
    nothing = reference.new_full((batch, frames), torch.nan)
    if min(height, width) < SMALLEST_SSIM_SIDE:
        return nothing, nothing
    x, y = (p.transpose(1, 2).reshape(batch * frames, 3, height, width) for p in (reference, candidate))
    first, contrast = _similarity(x, y)
    single = first.view(batch, frames)
    if scales == 1 or min(height, width) < SMALLEST_MS_SSIM_SIDE:
        return single, nothing
    product = contrast.relu() ** SCALE_WEIGHTS[0]
    for scale in range(1, scales):
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        similarity, contrast = _similarity(x, y)
        last = scale == scales - 1
        product = product * (similarity if last else contrast).relu() ** SCALE_WEIGHTS[scale]
    return single, product.view(batch, frames)


def _similarity(x: Float[Tensor, "n 3 h w"], y: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
    """SSIM over the whole frame, and its contrast term where the window lies inside the frame; each [n]."""
    margin = WINDOW // 2
    x, y = (F.pad(p, (margin,) * 4, mode="reflect") for p in (x, y))
    contrast, luminance = similarity_terms(x, y)
    inside = contrast[..., margin:-margin, margin:-margin]
    return (contrast * luminance).mean(dim=(1, 2, 3)), inside.mean(dim=(1, 2, 3))
