"""CDT: official sizes, shapes, schedule, causality, noise, precision, gradients."""

import dataclasses

import pytest
import torch

import smalti
from smalti.errors import ConfigError
from smalti.quantizers.variational import VariationalConfig
from smalti.tokenizers.cdt import CDT, CDTConfig, kept_signal
from tests.tokenizers.tiny_cdt import TINY

CONFIG = CDTConfig(**TINY)


@pytest.mark.parametrize(("preset", "count"), [("base", 192_592_755), ("small", 120_672_838)])
def test_presets_have_the_official_size(preset, count) -> None:
    with torch.device("meta"):
        model = smalti.create("cdt", preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("preset", ["base", "small"])
def test_seventeen_frames_become_five_latents(preset) -> None:
    with torch.device("meta"):
        model = smalti.create("cdt", preset)
        assert model.compression == (4, 8, 8)
        found = model.encoder(torch.empty(1, 3, 17, 64, 64))
        assert found.shape == (1, 32, 5, 8, 8)
        context = model.context(found[:, :16])
        assert context[0].shape == (1, model.config.finest, 17, 64, 64)
        assert len(context) == 4
        assert model.denoise(torch.empty(1, 3, 17, 64, 64), context).shape == (1, 3, 17, 64, 64)


def test_the_schedule_goes_from_signal_to_noise() -> None:
    kept = kept_signal(8192)
    assert kept[0] == pytest.approx(1, abs=1e-4)
    assert kept[-1] == pytest.approx(0, abs=1e-6)
    assert (kept[1:] < kept[:-1]).all()


def test_one_step_is_what_the_denoiser_says() -> None:
    model = CDT(CONFIG).eval()
    context, noise = model.context(torch.randn(1, 4, 2, 4, 4)), torch.randn(1, 3, 5, 16, 16)
    time = torch.tensor([8191 / 8192])
    torch.testing.assert_close(model.denoise(noise, context, steps=1), model.denoiser(noise, time, context))


def test_later_frames_change_nothing_before_them() -> None:
    model = CDT(CONFIG).eval()
    one = torch.rand(1, 3, 9, 16, 16)
    other = one.clone()
    other[:, :, 5:] = 0
    left, right = (model.encoder(clip) for clip in (one, other))
    torch.testing.assert_close(left[:, :, :2], right[:, :, :2])
    assert not torch.allclose(left[:, :, 2], right[:, :, 2])
    latents = torch.randn(1, 4, 3, 4, 4)
    changed = latents.clone()
    changed[:, :, 2] = 0
    noise = model.noise(0, 9, 16, 16)
    left, right = (model.denoise(noise, model.context(z)) for z in (latents, changed))
    torch.testing.assert_close(left[:, :, :5], right[:, :, :5])
    assert not torch.allclose(left[:, :, 5:], right[:, :, 5:])


@pytest.mark.parametrize("grids", [1, 2, 3])
def test_parts_give_what_the_whole_gives(grids) -> None:
    torch.manual_seed(2)
    whole = CDT(CONFIG).double().eval()
    parts = CDT(dataclasses.replace(CONFIG, grids_at_once=grids)).double().eval()
    parts.load_state_dict(whole.state_dict())
    pixels = torch.rand(1, 3, 17, 16, 16, dtype=torch.float64)
    latents = whole.posterior(pixels * 2 - 1).values
    torch.testing.assert_close(parts.encode_part(pixels, {}), latents)
    noise = whole.noise(0, 17, 16, 16).double()
    expected = whole.denoise(noise, whole.context(latents.double().movedim(-1, 1))) / 2 + 0.5
    torch.testing.assert_close(parts.decode_part(latents, {}), expected)


def test_the_base_model_s_official_forgetting_leaves_seams() -> None:
    torch.manual_seed(2)
    remembering = CDT(CONFIG).double().eval()
    forgetting = CDT(dataclasses.replace(CONFIG, forget_last=True)).double().eval()
    forgetting.load_state_dict(remembering.state_dict())
    latents = torch.randn(1, 4, 3, 4, 4, dtype=torch.float64)
    for model, equal in ((remembering, True), (forgetting, False)):
        state = {}
        parts = [model.context(part, state)[0] for part in latents.split(1, 2)]
        assert torch.allclose(torch.cat(parts, 2), model.context(latents)[0], atol=1e-9) is equal


def test_noise_belongs_to_its_frame() -> None:
    model = CDT(CONFIG)
    whole = model.noise(0, 9, 8, 8)
    assert torch.equal(model.noise(4, 3, 8, 8), whole[:, :, 4:7])
    assert not torch.equal(whole[:, :, 0], whole[:, :, 1])
    other = CDT(dataclasses.replace(CONFIG, seed=100))
    assert not torch.equal(other.noise(0, 1, 8, 8), whole[:, :, :1])
    assert whole.std().item() == pytest.approx(CONFIG.gamma, rel=0.1)


def test_gradients_reach_every_weight() -> None:
    model, clip = CDT(CONFIG).train(), torch.rand(2, 3, 5, 16, 16) * 2 - 1
    prediction, found = model(clip)
    assert prediction.shape == clip.shape
    assert found.loss > 0
    ((prediction - clip).square().mean() + found.loss).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_any_size_trains_at_random_times() -> None:
    model, pixels = CDT(CONFIG).train(), torch.rand(2, 3, 4, 9, 7)
    found = model.reconstruct(pixels)
    assert found.pixels.shape == pixels.shape
    assert not torch.equal(found.pixels, model.reconstruct(pixels).pixels)
    ((found.pixels - pixels).square().mean() + found.loss).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_half_precision_runs() -> None:
    model, pixels = CDT(CONFIG).eval().to(torch.bfloat16), torch.rand(1, 3, 5, 12, 20)
    back = model.decode(model.encode(pixels))
    assert back.shape == pixels.shape
    assert torch.isfinite(back).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_down": (True,)},
        {"unet_multipliers": (1, 2, 3)},
        {"quantizer": VariationalConfig(4, of=smalti.quantizers.vq.VectorQuantizerConfig(8, 4))},
        {"conditions": 5},
        {"steps": 0},
        {"grids_at_once": 0},
    ],
)
def test_configurations_that_do_not_fit_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **wrong)


def test_official_weights_that_lack_a_tensor_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no"):
        CDT.from_official({"model.context_fn.enc.0.0.res_conv.bias": torch.zeros(3)})
