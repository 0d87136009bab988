"""MAGVIT's 3D-VQ: the published sizes, its grid, inflation and gradients."""

import dataclasses

import pytest
import torch

import smalti
from smalti.errors import ConfigError
from smalti.nn.magvit_vq_networks import MagvitVQSizes
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.magvit_3dvq import Magvit3DVQ, Magvit3DVQConfig

TINY = Magvit3DVQConfig(
    MagvitVQSizes(8, (1, 1, 2), (True, False), 1, 4),
    VectorQuantizerConfig(16, 4, learn="gradient", entropy=0.1),
)
PICTURES = dataclasses.replace(TINY, sizes=dataclasses.replace(TINY.sizes, time_down=(False, False)))


@pytest.mark.parametrize(("preset", "millions"), [("vqgan3d-B", 41), ("vqgan3d-L", 158)])
def test_presets_have_the_published_size(preset, millions) -> None:
    with torch.device("meta"):
        model = smalti.create("magvit-3dvq", preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        millions * 1e6, rel=0.02
    )


def test_sixteen_frames_become_four_grids_of_16_by_16() -> None:
    with torch.device("meta"):
        model = Magvit3DVQ()
        found = model.encoder(torch.empty(1, 3, 16, 128, 128))
        assert found.shape == (1, 256, 4, 16, 16)
        assert model.decoder(found).shape == (1, 3, 16, 128, 128)
    assert model.compression == (4, 8, 8)


def test_it_looks_both_ways() -> None:
    model = Magvit3DVQ(TINY).eval()
    one = torch.rand(1, 3, 4, 16, 16)
    other = one.clone()
    other[:, :, 2:] = 0
    assert not torch.allclose(model.encoder(one)[:, :, 0], model.encoder(other)[:, :, 0])


def test_gradients_reach_every_weight() -> None:
    model, clip = Magvit3DVQ(TINY).train(), torch.rand(1, 3, 4, 16, 16)
    reconstruction, found = model(clip)
    ((reconstruction - clip).square().mean() + found.loss).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.quantizer.codebook.grad.any()


def test_any_size_trains() -> None:
    model, pixels = Magvit3DVQ(TINY).eval(), torch.rand(2, 3, 3, 9, 7)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert model.quantizer.codebook.grad.any()


def test_an_inflated_kernel_has_the_picture_s_in_the_middle() -> None:
    pictures, model = Magvit3DVQ(PICTURES), Magvit3DVQ(TINY)
    model.inflate(pictures)
    kernel, flat = model.encoder.enter.weight, pictures.encoder.enter.weight
    assert torch.equal(kernel[:, :, 1], flat[:, :, 0])
    assert not kernel[:, :, ::2].any()
    still = torch.rand(1, 3, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    expected = pictures.encoder(still[:, :, :1]).expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(model.encoder(still), expected)


def test_another_way_of_learning_is_refused() -> None:
    with pytest.raises(ConfigError, match="gradient"):
        Magvit3DVQConfig(quantizer=VectorQuantizerConfig())
