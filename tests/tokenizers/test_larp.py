from __future__ import annotations

import pytest
import torch
from torch import nn

import smalti
from smalti.errors import ConfigError, FormatError
from smalti.tokenizers.larp import LARP
from smalti.tokenizers.larp_prior import PRESETS, LARPPrior, replaced_share
from tests.tokenizers.tiny_larp import TINY


@pytest.fixture
def model() -> LARP:
    tokenizer = LARP(**TINY).eval()
    nn.init.normal_(tokenizer.to_pixels.weight, std=0.05)  # it starts at zero
    return tokenizer


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 4, 16, 16)


def test_the_official_size_has_173_million_weights() -> None:
    with torch.device("meta"):
        weights = sum(p.numel() for p in smalti.create("larp").parameters())
    assert weights == pytest.approx(173e6, rel=0.02)


def test_the_official_prior_has_21_7_million_weights() -> None:
    with torch.device("meta"):
        weights = sum(p.numel() for p in LARPPrior(PRESETS["gptc-S"]).parameters())
    assert weights == pytest.approx(21.7e6, rel=0.02)


@pytest.mark.parametrize("count", [1, 6, 9])
def test_a_tile_gives_as_many_tokens_as_there_are_queries(count: int) -> None:
    tokenizer = LARP(**TINY | {"tokens": count}).eval()
    assert tokenizer.encode(torch.rand(1, 3, 4, 16, 16)).ids.shape == (1, count, 1)
    assert tokenizer.encode(torch.rand(1, 3, 5, 16, 17)).ids.shape == (1, 4 * count, 1)


def test_every_token_sees_every_patch(model, clips) -> None:
    clips.requires_grad_()
    found = model.read(clips)
    for token in range(found.shape[1]):
        (gradient,) = torch.autograd.grad(found[0, token].square().sum(), clips, retain_graph=True)
        by_patch = gradient[0].abs().sum((0, 1)).unflatten(0, (2, 8)).unflatten(2, (2, 8)).sum((1, 3))
        assert (by_patch > 0).all()


def test_permuted_queries_give_permuted_tokens(model, clips) -> None:
    ids = model.encode(clips).ids
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    model.queries.data = model.queries.data[order]
    assert torch.equal(model.encode(clips).ids, ids[:, order])


def test_codes_are_drawn_in_training_with_odds_of_their_cosines(model) -> None:
    latent = torch.randn(8)
    cosines = model.codebook() @ latent / latent.norm()
    odds = (cosines / 0.03).softmax(0)
    drawn = model.quantizer.train()(latent.expand(4000, 8))
    counts = torch.bincount(drawn.ids[:, 0], minlength=64)
    likely = odds * 4000 > 5
    chi_square = ((counts - odds * 4000).square() / (odds * 4000))[likely].sum()
    assert chi_square < 3 * likely.sum() + 20
    assert counts[likely].sum() > 0.95 * 4000
    nearest = model.quantizer.eval()(latent.expand(4, 8))
    assert (nearest.ids == odds.argmax()).all()
    torch.testing.assert_close(drawn.values.norm(dim=1), torch.ones(4000))


def test_training_reaches_every_weight(model, clips) -> None:
    model.train()
    found = model(clips)
    assert found.clips.shape == clips.shape
    ((found.clips - clips).abs().mean() + found.quantized.loss).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_half_precision_runs(model, clips) -> None:
    half = model.bfloat16()
    tokens = half.encode(clips)
    assert half.decode(tokens).dtype == torch.float32
    assert half.quantizer.codebook.dtype == torch.float32


def test_all_tokens_of_a_tile_are_needed(model, clips) -> None:
    with pytest.raises(FormatError, match="all of them are needed"):
        model.decode(model.encode(clips)[:3])


@pytest.mark.parametrize("wrong", [{"size": 12}, {"frames": 3}, {"heads": 5}, {"tokens": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        LARP(**TINY | wrong)


@pytest.fixture
def prior() -> LARPPrior:
    return LARPPrior(channels=8, length=6, dim=32, depth=2, heads=4)


def test_the_prior_teaches_the_encoder_and_not_the_codebook(model, prior, clips) -> None:
    model.train()
    quantized = model.quantize(model.read(clips))
    loss = prior(quantized.values, quantized.ids[..., 0], model.quantizer.codebook)
    loss.backward()
    assert model.enter.weight.grad.any()
    assert model.quantizer.codebook.grad is None
    assert all(p.grad is not None for p in prior.parameters())


def test_the_prior_sees_no_later_vector(prior) -> None:
    prior.eval()
    vectors = nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    changed = vectors.clone()
    changed[:, 3:] = torch.randn(2, 3, 8)
    before, after = prior.predict(vectors), prior.predict(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(2, 6))


def test_the_second_round_reads_drawn_codes(prior) -> None:
    prior.eval()
    codebook = nn.functional.normalize(torch.randn(64, 8), dim=1)
    ids = torch.randint(64, (2, 6))
    one = prior(codebook[ids], ids, codebook, rounds=1)
    torch.testing.assert_close(prior(codebook[ids], ids, codebook, share=0.0), one)
    assert not torch.allclose(prior(codebook[ids], ids, codebook, share=1.0), one, atol=1e-6)


def test_more_vectors_than_places_are_refused(prior) -> None:
    with pytest.raises(ConfigError, match="8 vectors, but the prior has 6"):
        prior.predict(torch.randn(1, 8, 8))


def test_the_share_of_drawn_codes_rises_to_a_half_at_three_tenths() -> None:
    assert [replaced_share(step, 100) for step in (0, 15, 30, 99)] == pytest.approx([0, 0.25, 0.5, 0.5])
