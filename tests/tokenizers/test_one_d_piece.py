from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from smalti import create
from smalti.errors import ConfigError
from smalti.tokenizers.one_d_piece import OneDPiece, OneDPieceConfig, first_token_groups, token_contribution
from smalti.tokenizers.one_dimensional import variational
from smalti.tokenizers.titok import TiTok, TiTokConfig
from tests.tokenizers.tiny_one_d_piece import TINY

CONFIG = OneDPieceConfig(**TINY)


def pictures(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, CONFIG.size, CONFIG.size)


@pytest.mark.parametrize(("size", "count"), [("S", 83_871_247), ("B", 205_256_463), ("L", 641_742_863)])
def test_presets_have_the_official_number_of_parameters(size, count) -> None:
    with torch.device("meta"):
        model = create("one-d-piece", f"One-D-Piece-{size}-256")
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert (model.length, model.codebook_sizes) == (256, (4096,))


def test_all_tokens_decode_as_titoks() -> None:
    model, plain = OneDPiece(CONFIG).eval(), TiTok(TiTokConfig(**TINY)).eval()
    plain.load_state_dict(model.state_dict())
    tokens = model.encode(pictures()[:, :, None])
    assert torch.equal(model.decode(tokens), plain.decode(tokens))


@pytest.mark.parametrize("size", [(16, 16), (20, 33)])
def test_any_prefix_decodes_and_the_rest_does_not_matter(size) -> None:
    model = OneDPiece(CONFIG).eval()
    tokens = model.encode(torch.rand(1, 3, 1, *size))
    seen = []
    for count in range(len(tokens) // CONFIG.length, len(tokens) + 1):
        back = model.decode(tokens[:count])
        assert back.shape == (1, 3, 1, *size)
        seen.append(back)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))
    changed = tokens.ids.clone()
    changed[:, 12:] = 5
    if len(tokens) > 12:
        other = dataclasses.replace(tokens, ids=changed)
        assert torch.equal(model.decode(other[:12]), model.decode(tokens[:12]))


def test_training_alone_drops_and_draws_once_a_batch() -> None:
    model = OneDPiece(CONFIG)
    draws = torch.stack([model.draw(3) for _ in range(300)])
    assert (draws == draws[:, :1]).all()
    assert sorted(set(draws[:, 0].tolist())) == [1, 2, 3, 4, 5, 6]
    one = pictures(1)
    assert torch.equal(model.eval()(one).pixels, model(one).pixels)
    assert len({model.train()(one).pixels.mean().item() for _ in range(30)}) > 2


def test_powers_are_drawn_with_all_at_the_end() -> None:
    model = OneDPiece(dataclasses.replace(CONFIG, prefix="powers"))
    drawn = {int(model.draw(1)) for _ in range(200)}
    assert drawn == {1, 2, 4, 6}


def test_dropped_tokens_get_the_quantizers_gradient_alone() -> None:
    model = OneDPiece(CONFIG).train()
    found = model.quantize(pictures())
    found.values.retain_grad()
    out = model.paint(found, torch.tensor([2, 2]))
    out.pixels.square().sum().backward(retain_graph=True)
    reached = found.values.grad.abs().sum((0, 2))
    assert (reached[:2] > 0).all()
    assert (reached[2:] == 0).all()
    model.zero_grad()
    model.quantizer(model.encoder(pictures())).loss.backward()
    assert (model.encoder.latents.grad.abs().sum(1) > 0).all()


def test_samples_that_keep_their_own_counts_are_as_if_alone() -> None:
    model = OneDPiece(dataclasses.replace(CONFIG, per_sample=True)).eval()
    assert len(set(model.draw(50).tolist())) > 1
    kept = torch.tensor([1, 4, 3])
    found = model.quantize(pictures(3))
    together = model.paint(found, kept).logits
    for number, count in enumerate(kept.tolist()):
        alone = model.predict(found.values[number : number + 1, :count])
        torch.testing.assert_close(together[number : number + 1], alone)


def test_contributions_are_differences_of_pictures() -> None:
    model = OneDPiece(CONFIG).eval()
    batch = pictures(3)
    absolute, squared = token_contribution(model, batch, torch.Generator().manual_seed(1))
    assert absolute.shape == squared.shape == (6, 16, 16)
    with torch.no_grad():
        ids = model.quantize(batch).ids
        other = ids.clone()
        drawn = torch.randint(1024, ids.shape, generator=torch.Generator().manual_seed(1))
        other[:, 2] = drawn[:, 2]
        difference = (model.decode_tiles(other) - model.decode_tiles(ids))[:, :, 0]
    torch.testing.assert_close(absolute[2], difference.abs().sum(1).mean(0))
    torch.testing.assert_close(squared[2], difference.square().sum(1).mean(0))
    continuous = OneDPiece(dataclasses.replace(CONFIG, quantizer=variational(2, 6)))
    with pytest.raises(ConfigError, match="codebook"):
        token_contribution(continuous, batch)


def test_pictures_are_grouped_by_their_first_code() -> None:
    ids = torch.tensor([[[4], [1]], [[2], [1]], [[4], [9]]])
    assert first_token_groups(ids) == {4: [0, 2], 2: [1]}


def test_training_reconstructs_from_the_first_tokens() -> None:
    model, pixels = OneDPiece(CONFIG), pictures()[:, :, None]
    whole = model.eval().reconstruct(pixels).pixels
    assert any(not torch.equal(model.train().reconstruct(pixels).pixels, whole) for _ in range(10))
