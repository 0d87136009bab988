from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from smalti import create
from smalti.errors import ConfigError
from smalti.quantizers.grouped import disentanglement
from smalti.tokenizers.fqgan import FQGAN, FQGANConfig
from smalti.tokenizers.fqgan_parts import teacher_loss
from tests.tokenizers.tiny_fqgan import TINY

CONFIG = FQGANConfig(**TINY)
TRIPLE = dataclasses.replace(
    CONFIG, quantizer=dataclasses.replace(CONFIG.quantizer, groups=3), teachers=(16, 24)
)


@pytest.mark.parametrize(
    ("preset", "count", "factor"),
    [
        ("fqgan_dual_ds16", 150_410_131, 16),
        ("fqgan_triple_ds16", 159_295_515, 16),
        ("fqgan_dual_ds8", 150_209_427, 8),
        ("fqgan_triple_ds8", 159_586_331, 8),
    ],
)
def test_presets_have_the_official_number_of_parameters(preset, count, factor) -> None:
    with torch.device("meta"):
        model = create("fqgan", preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.compression == (1, factor, factor)
    assert set(model.codebook_sizes) == {16384}


def test_every_place_has_a_code_of_every_codebook() -> None:
    model = FQGAN(TRIPLE).eval()
    tokens = model.encode(torch.rand(2, 3, 3, 15, 8))
    assert tokens.grid == (3, 4, 2)
    assert tokens.ids.shape == (2, 24, 3)
    assert model.decode(tokens).shape == (2, 3, 3, 15, 8)


def test_frames_are_looked_at_one_by_one_in_the_official_range() -> None:
    model = FQGAN(CONFIG).eval()
    pixels = torch.rand(1, 3, 2, 16, 16)
    grid = model.encode_grid(pixels)
    with torch.no_grad():
        frames = 2 * pixels[0].transpose(0, 1) - 1
        out = model(frames)
        assert torch.equal(grid[0], out.quantized.ids)
        back = model.decode_grid(grid)
    torch.testing.assert_close(back[0].transpose(0, 1), (out.pixels + 1) / 2)


def test_each_codebook_changes_the_picture_by_itself() -> None:
    model = FQGAN(CONFIG).eval()
    tokens = model.encode(torch.rand(1, 3, 1, 16, 16))
    before = model.decode(tokens)
    for book in range(2):
        ids = tokens.ids.clone()
        ids[..., book] = (ids[..., book] + 7) % 64
        assert not torch.equal(model.decode(dataclasses.replace(tokens, ids=ids)), before)


@pytest.mark.parametrize("config", [CONFIG, TRIPLE], ids=["dual", "triple"])
def test_everything_learns(config) -> None:
    model = FQGAN(config).train()
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    out = model(frames)
    assert out.pixels.shape == frames.shape
    assert [feature.shape for feature in out.features] == [(2, width) for width in config.teachers]
    loss = F.mse_loss(out.pixels, frames) + out.quantized.loss
    loss = loss + sum(teacher_loss(feature, torch.randn_like(feature)) for feature in out.features)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax does not see what is the same for all keys
    assert all(name.endswith(".k.bias") for name in without)


def test_the_first_codebook_has_no_teacher() -> None:
    model = FQGAN(CONFIG).train()
    out = model(torch.rand(2, 3, 16, 16))
    out.features[0][:, 0].sum().backward()
    assert model.heads[0].project.weight.grad is None or not model.heads[0].project.weight.grad.any()
    assert model.heads[1].project.weight.grad.any()
    assert FQGAN(dataclasses.replace(CONFIG, teachers=()))(torch.rand(1, 3, 16, 16)).features == ()


def test_the_loss_holds_disentanglement() -> None:
    model = FQGAN(CONFIG).train()
    frames = torch.rand(2, 3, 16, 16)
    out = model(frames)
    parts = [part.flatten(0, 2) for part in out.quantized.values.chunk(2, -1)]
    apart = FQGAN(
        dataclasses.replace(CONFIG, quantizer=dataclasses.replace(CONFIG.quantizer, disentangle=0.0))
    )
    apart.load_state_dict(model.state_dict())
    rest = apart.train()(frames).quantized.loss
    torch.testing.assert_close(out.quantized.loss - rest, 0.1 * disentanglement(parts))


def test_a_picture_must_find_its_own_feature() -> None:
    features = F.one_hot(torch.arange(5), 8).float()
    own, other = teacher_loss(3 * features, features), teacher_loss(features.roll(1, 0), features)
    wanted = -torch.log(torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + 4))
    torch.testing.assert_close(own, wanted)
    assert other > own


def test_positions_of_other_sizes_are_resampled() -> None:
    model = FQGAN(CONFIG).eval()
    frames = torch.rand(1, 3, 24, 32) * 2 - 1
    assert model(frames).pixels.shape == frames.shape
    before = model.quantize(frames).values
    model.heads[0].positions.data.normal_()
    assert not torch.equal(model.quantize(frames).values, before)


def test_half_precision_runs() -> None:
    model = FQGAN(CONFIG).eval().bfloat16()
    back = model.decode(model.encode(torch.rand(1, 3, 1, 16, 12)))
    assert back.shape == (1, 3, 1, 16, 12)
    assert back.isfinite().all()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 teachers for 3 codebooks"):
        dataclasses.replace(TRIPLE, teachers=(16,))
    with pytest.raises(ConfigError, match="do not halve 18"):
        dataclasses.replace(CONFIG, size=18)
    with pytest.raises(ConfigError, match="has no quantize_vis"):
        FQGAN.from_official({"weight": torch.zeros(1)})


def test_any_size_is_reconstructed_with_gradients() -> None:
    model = FQGAN(CONFIG).eval()
    pixels = torch.rand(2, 3, 2, 13, 16)
    out = model.reconstruct(pixels)
    torch.testing.assert_close(out.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (out.pixels.sum() + out.loss).backward()
    assert model.encoder.conv_in.weight.grad.any()
    assert "disentanglement" in out.parts
