from __future__ import annotations

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError, MediaError
from smalti.nn.packed_sets import PackedSets, packed
from smalti.tokenizers.atoken import AToken
from tests.tokenizers.tiny_atoken import TINY


@pytest.fixture
def model() -> AToken:
    return AToken(**TINY).eval()


@pytest.fixture
def continuous() -> AToken:
    return AToken(**TINY | {"levels": ()}).eval()


def surface(model: AToken, count: int = 9) -> tuple[Tensor, Tensor]:
    places = torch.randperm(5**3)[:count]
    return model.voxels(torch.rand(count, 20), torch.stack([places // 25, places // 5 % 5, places % 5], 1))


def mixed(model: AToken) -> PackedSets:
    picture, clip, other = torch.rand(3, 1, 8, 12), torch.rand(3, 4, 12, 8), torch.rand(3, 1, 16, 4)
    return packed([model.patches(picture), model.patches(clip), surface(model), model.patches(other)])


@pytest.mark.parametrize(("preset", "ids"), [("atoken-soc", 0), ("atoken-sod", 8), ("atoken-soc-s1", 0)])
def test_official_sizes(preset: str, ids: int) -> None:
    """Twice 27 blocks of 1,152 channels; SigLIP 2's So400m vision tower, which the encoder was, has 428M."""
    with torch.device("meta"):
        model = smalti.create("atoken", preset)
    encoder = sum(p.numel() for part in (model.encoder, model.pooling) for p in part.parameters())
    assert encoder == pytest.approx(428e6, rel=0.02)
    assert model.codebook_sizes == (4096,) * ids
    assert model.compression == (4, 16, 16)


def test_every_place_of_a_picture_has_its_ids(model) -> None:
    tokens = model.encode(torch.rand(2, 3, 1, 13, 8))
    assert tokens.ids.shape == (2, 4 * 2, 2)
    assert tokens.grid == (1, 4, 2)
    assert tokens.source.pad == (1, 3, 0)
    assert model.encode(torch.rand(1, 3, 5, 8, 8)).grid == (3, 2, 2)


def test_a_picture_is_a_frame_with_grey_ones_behind_it(model) -> None:
    picture = torch.rand(1, 3, 1, 8, 8)
    grey = torch.full_like(picture, 0.5)
    alone, clip = model.encode(picture), model.encode(torch.cat([picture, grey], 2))
    assert torch.equal(alone.ids, clip.ids)
    assert torch.equal(model.decode(alone), model.decode(clip)[:, :, :1])
    features, _ = model.patches(picture[0])
    assert not features[:, 48:].any()


def test_sets_together_are_what_they_are_alone(model) -> None:
    batch = mixed(model)
    together, rebuilt = model.see(batch), model(batch).patches
    for number, one in enumerate(batch.sets()):
        alone = packed([one])
        seen = model.see(alone)
        torch.testing.assert_close(together.features.sets()[number][0], seen.features.features)
        torch.testing.assert_close(together.pooled[number], seen.pooled[0])
        torch.testing.assert_close(rebuilt.sets()[number][0], model(alone).patches.features)


def test_the_order_of_a_set_does_not_matter(model) -> None:
    features, places = model.patches(torch.rand(3, 8, 8, 8))
    order = torch.randperm(len(features))
    plain, shuffled = packed([(features, places)]), packed([(features[order], places[order])])
    one, other = model(plain), model(shuffled)
    torch.testing.assert_close(other.patches.features, one.patches.features[order])
    torch.testing.assert_close(other.seen.pooled, one.seen.pooled)
    for clip in model.clips(plain), model.clips(shuffled):
        torch.testing.assert_close(clip[0], model.clips(plain)[0])


def test_chunks_of_a_long_clip_do_not_see_each_other(model) -> None:
    clip = torch.rand(1, 3, 10, 8, 8)
    whole = model.encode(clip).ids.unflatten(1, (5, 4))
    parts = [model.encode(part).ids.unflatten(1, (-1, 4)) for part in clip.split(4, 2)]
    assert torch.equal(whole, torch.cat(parts, 1))
    within = model.encode(torch.cat([clip[:, :, :2], 1 - clip[:, :, 2:]], 2)).ids.unflatten(1, (5, 4))
    assert not torch.equal(whole[:, 0], within[:, 0])


def test_all_4096_codes_are_their_own_ids(model) -> None:
    ids = torch.arange(4096)[:, None].expand(-1, 2)
    values = model.quantizer.lookup(ids)
    assert len(values.unique(dim=0)) == 4096
    reach = 3 * 1.001 / 2
    latents = torch.atanh((2 * values + 0.5) / reach) - torch.atanh(torch.tensor(0.5 / reach))
    again = model.quantizer(latents)
    assert torch.equal(again.ids, ids)
    assert torch.equal(again.values, values)


def test_the_mean_is_what_is_kept(continuous) -> None:
    picture = torch.rand(1, 3, 1, 8, 8)
    tokens = continuous.encode(picture)
    seen = continuous.see(continuous.packing([picture[0]]))
    torch.testing.assert_close(tokens.values[0], seen.posterior.features[:, :12])
    assert tokens.ids is None


def test_a_draw_in_training_differs_and_a_divergence_is_asked_for(continuous) -> None:
    batch = mixed(continuous)
    means = continuous(batch).quantized.values
    drawn = continuous.train()(batch).quantized
    assert not torch.allclose(drawn.values, means)
    assert drawn.loss > 0


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_training_reaches_every_weight(model, continuous, kind: str) -> None:
    trained = {"discrete": model, "continuous": continuous}[kind].train()
    batch = mixed(trained)
    found = trained(batch)
    wanted = (found.patches.features - batch.features).abs().mean() + found.quantized.loss
    (wanted + found.seen.pooled[:, 0].sum()).backward()
    assert [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_set_of_weights_learns_pictures_clips_and_voxels(continuous) -> None:
    batch = mixed(continuous)
    optimizer = torch.optim.Adam(continuous.parameters(), 3e-3)

    def losses() -> Tensor:
        found = continuous(batch).patches.sets()
        return torch.stack([(a - b).abs().mean() for (a, _), (b, _) in zip(found, batch.sets(), strict=True)])

    before = losses().detach()
    for _ in range(40):
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()
    assert (losses() < 0.9 * before).all()


def test_texts_are_compared_as_siglip_does() -> None:
    pooled, texts = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    logits = AToken.text_logits(pooled, texts)
    torch.testing.assert_close(logits, torch.tensor([[126.951 - 15.5625, -15.5625]]), atol=0.01, rtol=0)


def test_half_precision_runs(model) -> None:
    half = model.bfloat16()
    assert half.decode(half.encode(torch.rand(1, 3, 3, 9, 8))).dtype == torch.float32


def test_what_does_not_fit_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="do not make 12 channels"):
        AToken(**TINY | {"codes": 3})
    with pytest.raises(ConfigError, match="multiple of 8"):
        AToken(**TINY | {"heads": 8})
    with pytest.raises(MediaError, match="smaller than a patch"):
        model.patches(torch.rand(3, 1, 3, 8))
    with pytest.raises(ConfigError, match="at most 96"):
        model.voxels(torch.rand(2, 97), torch.zeros(2, 3, dtype=torch.long))
