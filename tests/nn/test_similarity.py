from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import structural_similarity_index_measure

from smalti.nn.similarity import SCALE_WEIGHTS, gaussian_window, multiscale_similarity, window_means


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
def test_it_is_the_published_measure_over_fewer_scales(scales: int) -> None:
    x = torch.rand(3, 3, 100, 176)
    y = (x + 0.2 * torch.randn_like(x)).clamp(0, 1)
    weights = torch.tensor(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    given, wanted = multiscale_similarity(x, y, scales), torch.ones(3)
    for scale in range(scales):
        options = {"data_range": 1.0, "reduction": "none"}
        last = scale == scales - 1
        if last:  # torchmetrics gives every window: only those that fit count
            _, every = structural_similarity_index_measure(x, y, return_full_image=True, **options)
            value = every[..., 5:-5, 5:-5].mean((1, 2, 3))
        else:
            _, value = structural_similarity_index_measure(x, y, return_contrast_sensitivity=True, **options)
        wanted *= value ** weights[scale]
        x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


def test_equal_pictures_are_fully_similar_and_others_less() -> None:
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(multiscale_similarity(x, x), torch.ones(2))
    noisy = [multiscale_similarity(x, (x + level * torch.randn_like(x)).clamp(0, 1)) for level in (0.05, 0.4)]
    assert (noisy[1] < noisy[0]).all()
    assert (noisy[0] < 1).all()


@pytest.mark.parametrize("size", [1, 2, 7, 8, 11, 12, 40])
def test_windows_are_normalised_and_fit(size: int) -> None:
    window = min(11, size if size % 2 else size - 1)
    weights = torch.tensor(gaussian_window(window))
    assert weights.sum() == pytest.approx(1)
    assert torch.equal(weights, weights.flip(0))
    x = torch.rand(2, 3, size, 20)
    wanted = x.unfold(2, window, 1) @ weights
    wanted = wanted.unfold(3, 11, 1) @ torch.tensor(gaussian_window())
    torch.testing.assert_close(window_means(x), wanted)


@pytest.mark.parametrize("side", [8, 15, 16])
def test_small_crops_have_a_similarity_and_a_gradient(side: int) -> None:
    x = torch.rand(1, 3, side, side)
    y = (x + 0.1 * torch.rand_like(x)).requires_grad_()
    (1 - multiscale_similarity(x, y)).sum().backward()
    assert y.grad.isfinite().all()
    assert y.grad.any()


def test_half_precision_is_measured_in_float32() -> None:
    x, y = torch.rand(2, 1, 3, 32, 32).bfloat16()
    torch.testing.assert_close(multiscale_similarity(x, y), multiscale_similarity(x.float(), y.float()))


def test_autocast_changes_nothing() -> None:
    """Rounded to bfloat16, the variances of smooth pictures would be lost."""
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), (64, 64), mode="bilinear")
    y = (x + 0.02 * torch.randn_like(x)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = multiscale_similarity(x, y)
    assert torch.equal(rounded, multiscale_similarity(x, y))
