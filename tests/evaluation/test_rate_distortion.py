import math
from dataclasses import replace

import pytest

from smalti.errors import ConfigError
from smalti.evaluation.codecs import codec
from smalti.evaluation.dataset import dataset
from smalti.evaluation.metrics import psnr
from smalti.evaluation.rate_distortion import RatePoint, at_equal_bits, at_rate, mean, sweep

from .makers import save_picture, scene


def point(codec, setting, rate, value, sample=""):
    return RatePoint(
        codec, setting, sample, rate * 1000, rate, psnr=value, ssim=value / 100, ms_ssim=math.nan
    )


CURVE = [point("JPEG", 2, 0.4, 30.0), point("JPEG", 1, 0.1, 24.0), point("JPEG", 3, 1.6, 38.0)]


def test_a_figure_between_settings_is_linear_in_the_logarithm_of_the_rate():
    assert at_rate(CURVE, 0.2, "psnr") == pytest.approx(27.0)
    assert at_rate(CURVE, 0.8, "psnr") == pytest.approx(34.0)
    assert at_rate(CURVE, 0.8, "ssim") == pytest.approx(0.34)


def test_a_measured_rate_gives_the_measured_figure():
    assert [at_rate(CURVE, rate, "psnr") for rate in (0.1, 0.4, 1.6)] == pytest.approx([24, 30, 38])


@pytest.mark.parametrize("rate", [0.0999, 1.601])
def test_a_curve_is_never_continued(rate):
    assert math.isnan(at_rate(CURVE, rate, "psnr"))


def test_two_settings_of_one_rate():
    assert at_rate([CURVE[0], replace(CURVE[0], setting=9)], 0.4, "psnr") == 30.0


def test_rows_at_equal_bits():
    ours = [point("ours", 1, 0.2, 29.0), point("ours", 2, 3.0, 40.0)]
    first, second = at_equal_bits([*ours, *CURVE], "ours")
    assert (first["codec"], first["setting"], first["bits_per_pixel"]) == ("JPEG", 1, 0.2)
    assert first["psnr"] == pytest.approx(27.0)
    assert math.isnan(first["ms_ssim"])
    assert math.isnan(second["psnr"])


def test_every_sample_counts_the_same():
    average = mean([point("JPEG", 1, 0.1, 20.0, "a"), point("JPEG", 1, 0.3, 30.0, "b")])
    assert (average.sample, average.psnr) == ("", 25.0)
    assert average.bits_per_pixel == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="one coder"):
        mean(CURVE)


def test_a_sweep_measures_real_files(tmp_path):
    scenes = {f"{seed}.png": scene(40, 56, seed=seed) for seed in range(2)}
    for name, pixels in scenes.items():
        save_picture(pixels, tmp_path / name)
    jpeg = replace(codec("JPEG"), settings=(20, 80))
    result = sweep(dataset(tmp_path), [jpeg])
    assert [(p.setting, p.sample) for p in result.samples] == [
        (20, "0.png"),
        (80, "0.png"),
        (20, "1.png"),
        (80, "1.png"),
    ]
    for measured in result.samples:
        pixels = scenes[measured.sample]
        coded = jpeg.round_trip(pixels, measured.setting)
        assert measured.bytes == coded.bytes
        assert measured.bits_per_pixel == pytest.approx(8 * coded.bytes / (40 * 56))
        assert measured.psnr == pytest.approx(psnr(pixels, coded.pixels).item(), rel=1e-5)
        assert math.isnan(measured.perceptual)
    assert [p.setting for p in result.means] == [20, 80]
    assert result.means[0].psnr == pytest.approx((result.samples[0].psnr + result.samples[2].psnr) / 2)
