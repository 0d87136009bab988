"""MAGVIT-v2: sizes, codes, causality, inflation, gradients, precision, official weights."""

import dataclasses

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError
from smalti.quantizers.lfq import LFQConfig
from smalti.tokenizers.magvit import Magvit, MagvitConfig
from tests.golden.cases import find

TINY = MagvitConfig(8, (1, 1, 2), (False, True), 1, 4, quantizer=LFQConfig(6))
PICTURES = dataclasses.replace(TINY, time_down=(False, False))
OFFICIAL_PARAMETERS = {
    "ucf101_lfqgan_128_L": 370_547_349,
    "imagenet_lfqgan_256_L": 115_127_829,
    "imagenet_lfqgan_128_L": 112_021_653,
    "pretrain_lfqgan_256_16384": 115_094_033,
}


def video(frames: int = 5, side: int = 16) -> Tensor:
    return torch.rand(1, 3, frames, side, side) * 2 - 1


@pytest.mark.parametrize(("preset", "count"), OFFICIAL_PARAMETERS.items())
def test_presets_have_the_official_size(preset, count) -> None:
    with torch.device("meta"):
        model = smalti.create("magvit", preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_seventeen_frames_become_five_grids() -> None:
    with torch.device("meta"):
        model = Magvit()
        found = model.latents(torch.empty(1, 3, 17, 128, 128))
        assert found.shape == (1, 18, 5, 16, 16)
        assert model.decoder(found).shape == (1, 3, 17, 128, 128)
    assert model.compression == (4, 8, 8)
    assert model.codebook_sizes == (2**18,)


def test_a_picture_is_the_first_frame_of_a_clip() -> None:
    model, frames = Magvit(TINY).eval(), torch.rand(1, 3, 5, 16, 16)
    clip, picture = model.encode(frames), model.encode(frames[:, :, :1])
    assert picture.grid == (1, 4, 4)
    assert torch.equal(clip.ids[:, :16], picture.ids)
    torch.testing.assert_close(model.decode(clip)[:, :, :1], model.decode(picture))


def test_norms_over_the_clip_see_later_frames_and_refuse_to_stream() -> None:
    torch.manual_seed(0)
    model = Magvit(dataclasses.replace(TINY, pooled="clip")).eval()
    assert not model.causal
    with pytest.raises(ConfigError, match="pooled"):
        model.stream()
    one = video()
    other = one.clone()
    other[:, :, 3:] = -1
    assert not torch.allclose(model.latents(one)[:, :, 0], model.latents(other)[:, :, 0])
    causal = Magvit(TINY).eval()
    torch.testing.assert_close(causal.latents(one)[:, :, 0], causal.latents(other)[:, :, 0])


def test_the_decoder_is_causal_too() -> None:
    model = Magvit(TINY).eval()
    one = torch.where(torch.rand(1, 6, 4, 4, 4) > 0.5, 1.0, -1.0)
    other = one.clone()
    other[:, :, 2:] *= -1
    left, right = model.decoder(one), model.decoder(other)
    torch.testing.assert_close(left[:, :, :3], right[:, :, :3])
    assert not torch.allclose(left[:, :, 3:], right[:, :, 3:])


def test_an_inflated_model_gives_every_still_frame_what_the_picture_gives() -> None:
    pictures, model = Magvit(PICTURES).eval(), Magvit(TINY).eval()
    model.inflate(pictures)
    still = video(1).expand(-1, -1, 5, -1, -1)
    expected = pictures.latents(still[:, :, :1])
    torch.testing.assert_close(model.latents(still), expected.expand(-1, -1, 3, -1, -1))
    codes = torch.where(expected > 0, 1.0, -1.0)
    decoded = pictures.decoder(codes).expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(model.decoder(codes.expand(-1, -1, 3, -1, -1)), decoded)


def test_inflation_refuses_another_model() -> None:
    with pytest.raises(ConfigError, match="picture"):
        Magvit(TINY).inflate(Magvit(dataclasses.replace(PICTURES, channels=16)))


def test_gradients_reach_every_weight() -> None:
    model = Magvit(TINY).train()
    clip = video()
    reconstruction, found = model(clip)
    assert reconstruction.shape == clip.shape
    ((reconstruction - clip).square().mean() + found.loss).backward()
    assert {"sample_entropy", "batch_entropy"} <= found.stats.keys()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.encoder.enter.weight.grad.any()


def test_any_size_trains() -> None:
    model, pixels = Magvit(TINY).eval(), torch.rand(2, 3, 4, 9, 7)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert model.encoder.enter.weight.grad.any()
    assert "usage" in found.parts


def test_half_precision_runs() -> None:
    model, pixels = Magvit(TINY).eval().to(torch.bfloat16), torch.rand(1, 3, 5, 16, 16)
    back = model.decode(model.encode(pixels))
    assert back.shape == pixels.shape
    assert torch.isfinite(back).all()


def test_official_weights_prefer_the_running_mean_and_pass_over_the_rest() -> None:
    plain = find("magvit", "case_a")[0].weights
    state = {name: torch.zeros_like(tensor) for name, tensor in plain.items()}
    state |= {"model_ema." + name.replace(".", ""): tensor for name, tensor in plain.items()}
    state |= {"loss.discriminator.main.0.weight": torch.zeros(1), "model_ema.decay": torch.tensor(0.9)}
    mean, last = (Magvit.from_official(state, groups=4, ema=ema) for ema in (True, False))
    assert mean.config.pooled == "clip"
    assert torch.equal(mean.encoder.enter.weight, plain["encoder.conv_in.conv_1.weight"])
    assert not last.encoder.enter.weight.any()


@pytest.mark.parametrize("broken", ["decoder.conv_in.conv_1.weight", "encoder.mid_block.0.norm1.bias"])
def test_official_weights_that_lack_a_tensor_are_refused(broken) -> None:
    state = find("magvit", "case_a")[0].weights
    del state[broken]
    with pytest.raises(ConfigError):
        Magvit.from_official(state, groups=4)


@pytest.mark.parametrize("wrong", [{"time_down": (True,)}, {"groups": 3}])
def test_configurations_that_do_not_fit_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(TINY, **wrong)
