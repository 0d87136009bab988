"""SPAE: the pyramid of words, its places, prefixes, losses."""

import dataclasses

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.magvit_vq_networks import MagvitVQSizes
from smalti.tokenizers.magvit_spae import SPAE, SPAEConfig

TINY = SPAEConfig(MagvitVQSizes(8, (1, 2), (False,), 1, 4), (1, 2, 4, 4), words=32, dim=4)


def test_a_tile_is_597_words() -> None:
    with torch.device("meta"):
        model = SPAE()
    assert model.length == 597
    assert model.compression == (1, 128, 128)


def test_words_stand_in_the_middle_of_their_blocks() -> None:
    model = SPAE(TINY)
    assert model.places(0).tolist() == [2 * 4 + 2]
    assert model.places(1).tolist() == [5, 7, 13, 15]
    assert model.places(2).tolist() == list(range(16))


def test_every_layer_is_asked_for_what_the_words_before_left() -> None:
    model = SPAE(TINY).eval()
    z = torch.randn(1, 16, 4)
    found = model.quantize(z)
    place = model.places(0).item()
    first = found[0][1].values[0, 0]
    asked = found[2][0][0, place]
    torch.testing.assert_close(asked, z[0, place] + z[0, place] - first)
    untouched = 0
    torch.testing.assert_close(found[2][0][0, untouched], z[0, untouched])


def test_a_place_gets_the_mean_of_its_words_or_the_finest_block_s() -> None:
    model = SPAE(TINY)
    words = torch.arange(37.0)[None, :, None].expand(1, 37, 4)
    grid = model.mean_words(words)[0, :, 0]
    assert grid[10] == (0 + (5 + 10) + (21 + 10)) / 3
    assert grid[0] == (5 + 21) / 2
    coarse = model.mean_words(words[:, :5])[0, :, 0]
    assert coarse[5] == 1
    assert coarse[0] == 1
    assert coarse[15] == 4
    broken = model.mean_words(words[:, :3])[0, :, 0]
    assert (broken[0], broken[2], broken[12]) == (1, 2, 0)


def test_any_first_words_decode() -> None:
    model, pixels = SPAE(TINY).eval(), torch.rand(1, 3, 1, 8, 8)
    tokens = model.encode(pixels)
    assert len(tokens) == 37
    for count in (1, 3, 5, 20, 37):
        assert model.decode(tokens[:count]).shape == pixels.shape


def test_the_table_is_frozen_and_gradients_reach_both_networks() -> None:
    model = SPAE(TINY).train()
    table = torch.randn(32, 4)
    model.set_words(table)
    tiles = torch.rand(2, 3, 1, 8, 8)
    reconstruction, loss = model(tiles, layers=3)
    ((reconstruction - tiles).square().mean() + loss).backward()
    assert torch.equal(model.quantizer.codebook, table)
    assert model.quantizer.codebook.grad is None
    assert model.encoder.enter.weight.grad.any()
    assert model.decoder.enter.weight.grad.any()


def test_any_size_trains_tile_by_tile() -> None:
    model, pixels = SPAE(TINY).eval(), torch.rand(2, 3, 2, 9, 15)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert model.encoder.enter.weight.grad.any()


def test_the_semantic_loss_falls_near_a_suitable_word() -> None:
    model = SPAE(TINY)
    suitable = torch.zeros(1, 32, dtype=torch.bool)
    suitable[0, 3] = True
    near, far = (model.quantizer.codebook[word].expand(1, 1, 4) * 4 for word in (3, 9))
    assert model.semantic_loss(near, suitable) < model.semantic_loss(far, suitable)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="divide"):
        dataclasses.replace(TINY, pyramid=(3, 4))
    with pytest.raises(ConfigError, match="single frames"):
        SPAEConfig(MagvitVQSizes())
    with pytest.raises(ConfigError, match="table"):
        SPAE(TINY).set_words(torch.randn(5, 4))
