import pytest
import torch

from smalti.errors import ConfigError, MediaError, UnsupportedError
from smalti.evaluation.codecs import CODECS, codec, codecs_for
from smalti.evaluation.metrics import psnr

from .makers import scene

PICTURE = [c.name for c in codecs_for(1)]
CLIP = [c.name for c in codecs_for(2)]


def material(name, **size):
    return scene(frames=1 if name in PICTURE else 6, **size)


def test_pictures_and_clips_have_their_codecs():
    assert PICTURE == ["JPEG", "WebP", "AVIF"]
    assert CLIP == ["JPEG frames", "x264", "x265", "SVT-AV1"]


@pytest.mark.parametrize("name", CODECS)
def test_more_bytes_give_more_fidelity(name):
    pixels = material(name)
    coded = [CODECS[name].round_trip(pixels, setting) for setting in CODECS[name].settings[1::2]]
    sizes = [c.bytes for c in coded]
    quality = [psnr(pixels, c.pixels).mean().item() for c in coded]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
    assert quality == sorted(quality)


@pytest.mark.parametrize("name", CODECS)
def test_the_finest_setting_is_nearly_the_picture(name):
    pixels = material(name)
    coded = CODECS[name].round_trip(pixels, CODECS[name].finest)
    assert psnr(pixels, coded.pixels).mean() > 30
    assert coded.bytes < pixels.numel()


@pytest.mark.parametrize("name", CODECS)
def test_odd_sizes_come_back_whole(name):
    pixels = material(name, height=67, width=91)
    coded = CODECS[name].round_trip(pixels, CODECS[name].settings[-1], fps=29.97)
    assert coded.pixels.shape == pixels.shape
    assert psnr(pixels, coded.pixels).min() > 22


@pytest.mark.parametrize("name", ["x264", "x265", "SVT-AV1"])
def test_clips_come_back_in_order(name):
    pixels = scene(frames=12)
    back = CODECS[name].round_trip(pixels, CODECS[name].settings[-1]).pixels
    for t in range(12):
        errors = [(pixels[:, :, other] - back[:, :, t]).square().mean().item() for other in range(12)]
        assert min(range(12), key=errors.__getitem__) == t


@pytest.mark.parametrize("name", ["x264", "x265"])
def test_streams_carry_no_note_of_their_encoder(name):
    frames = scene(frames=2)[0].permute(1, 2, 3, 0).mul(255).byte().numpy()
    (stream,) = CODECS[name].backend.encode(frames, 40, 25.0)
    assert name.encode() not in stream


def test_within_keeps_the_best_that_fits():
    pixels = scene()
    jpeg = codec("JPEG")
    setting, coded = jpeg.within(pixels, 2000)
    assert coded.bytes <= 2000 < jpeg.round_trip(pixels, setting + 1).bytes
    setting, coded = jpeg.within(pixels, 1)
    assert setting == jpeg.coarsest
    assert coded.bytes > 1


def test_within_turns_round_where_lower_means_finer():
    pixels = scene(frames=3)
    x264 = codec("x264")
    setting, coded = x264.within(pixels, 1500)
    assert coded.bytes <= 1500 < x264.round_trip(pixels, setting - 1).bytes


def test_errors_name_what_is_wrong():
    with pytest.raises(ConfigError, match="did you mean 'JPEG'"):
        codec("JPG")
    with pytest.raises(MediaError, match="found 2"):
        codec("JPEG").round_trip(torch.full((1, 3, 1, 8, 8), 2.0), 50)
    with pytest.raises(UnsupportedError, match="cannot code 20000x8 pixels"):
        codec("WebP").round_trip(torch.zeros(1, 3, 1, 8, 20000), 50)
