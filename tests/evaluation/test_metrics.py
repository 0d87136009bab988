import csv
import math
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from smalti.errors import ConfigError, MediaError
from smalti.evaluation.metrics import fidelity, metric, ms_ssim, psnr, ssim

PEERS = ("cosmos-8x8", "cosmos-16x16", "stable-diffusion-3.5-VAE")


def pair(height, width, frames=1, noise=0.1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(height * width)
    reference = torch.rand(2, 3, frames, height, width, generator=generator, dtype=dtype)
    grain = torch.randn(reference.shape, generator=generator, dtype=dtype)
    return reference, (reference + noise * grain).clamp(0, 1)


def test_psnr_of_a_known_error():
    black = torch.zeros(1, 3, 2, 4, 4)
    grey = black.clone()
    grey[:, :, 1] = 0.1
    assert psnr(black, grey)[0, 0] == math.inf
    assert psnr(black, grey)[0, 1] == pytest.approx(20.0, abs=1e-5)


def test_psnr_counts_every_channel():
    black = torch.zeros(1, 3, 1, 4, 4)
    red = black.clone()
    red[:, 0] = 1.0
    assert psnr(black, red).item() == pytest.approx(10 * math.log10(3), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(176, 176), (181, 250), (260, 177)])
@pytest.mark.parametrize("noise", [0.02, 0.4])
def test_similarities_agree_with_torchmetrics(size, noise, dtype):
    reference, candidate = pair(*size, noise=noise, dtype=dtype)
    one = structural_similarity_index_measure(
        candidate[:, :, 0], reference[:, :, 0], data_range=1.0, reduction="none"
    )
    many = multiscale_structural_similarity_index_measure(
        candidate[:, :, 0], reference[:, :, 0], data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(reference, candidate)[:, 0], one, atol=1e-5, rtol=0)
    torch.testing.assert_close(ms_ssim(reference, candidate)[:, 0], many, atol=1e-5, rtol=0)


def test_small_pictures_agree_with_torchmetrics():
    reference, candidate = pair(6, 9)
    expected = structural_similarity_index_measure(
        candidate[:, :, 0], reference[:, :, 0], data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(reference, candidate)[:, 0], expected, atol=1e-5, rtol=0)


def test_unlike_structure_gives_no_negative_scale():
    reference = pair(180, 180)[0]
    value = ms_ssim(reference, 1 - reference)
    assert (value == 0).all()


def test_every_frame_is_measured_by_itself():
    reference, candidate = pair(32, 40, frames=3)
    for measure in (psnr, ssim):
        apart = [measure(reference[:, :, [t]], candidate[:, :, [t]]) for t in range(3)]
        torch.testing.assert_close(measure(reference, candidate), torch.cat(apart, 1))


@pytest.mark.parametrize(("side", "defined"), [(5, (False, False)), (6, (True, False)), (176, (True, True))])
def test_what_no_window_fits_has_no_figure(side, defined):
    reference, candidate = pair(side, 200)
    found = [not measure(reference, candidate).isnan().any() for measure in (ssim, ms_ssim)]
    assert found == list(defined)


def test_one_pass_gives_what_three_give():
    reference, candidate = pair(176, 190, frames=2)
    figures = fidelity(reference[:1], candidate[:1])
    for name, measure in {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}.items():
        assert figures[name] == pytest.approx(measure(reference[:1], candidate[:1]).mean().item(), rel=1e-6)


def test_torchmetrics_metric_gathers_the_mean_over_frames():
    reference, candidate = pair(24, 24, frames=3)
    gathered = metric("ssim")
    gathered.update(reference[:, :, :2], candidate[:, :, :2])
    gathered.update(reference[:, :, 2:], candidate[:, :, 2:])
    assert gathered.compute().item() == pytest.approx(ssim(reference, candidate).mean().item(), rel=1e-6)
    gathered.reset()
    assert gathered.frames == 0


def test_errors_name_what_is_wrong():
    with pytest.raises(MediaError, match="one shape"):
        psnr(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 4, 5))
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        metric("psnrr")


@pytest.mark.parametrize("peer", PEERS)
def test_psnr_agrees_with_published_figures(evaluation_pictures, peer):
    folder = evaluation_pictures / "peers"
    differences = []
    with (folder / peer / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"].startswith("circle"):
                continue
            pixels = [
                torch.from_numpy(np.array(Image.open(path / row["file"]).convert("RGB"))) / 255
                for path in (folder / "reference", folder / peer)
            ]
            reference, candidate = (p.permute(2, 0, 1)[None, :, None] for p in pixels)
            differences.append(abs(psnr(reference, candidate).item() - float(row["psnr_db"])))
    assert median(differences) <= 0.02
    assert sum(difference <= 0.1 for difference in differences) > 0.8 * len(differences)
