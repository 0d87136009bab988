"""The claims about picture backbones run; their measures, their pictures and their contenders are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.backbones.ponet_mixing import Places, PoNetMixer
from smalti.claims import crossvit, ecoformer, lookupvit, ponet, s2aformer, t2t_vit, tokenformer
from smalti.claims.base import reproduce
from smalti.claims.pictures import PlainViT, exponent, judged, learn, mean
from smalti.nn.flops import count_flops

NAMES = ("crossvit", "ecoformer", "lookupvit", "ponet", "s2aformer", "t2t-vit", "tokenformer")


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_writes_what_it_found(name: str, tmp_path: Path) -> None:
    path = reproduce(name, tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == name
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def bits(split: str, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last bit of a number, beside noise."""
    labels = index % 2
    noise = torch.randn(len(index), 3, generator=torch.Generator().manual_seed(int(index[0])))
    return torch.cat([labels[:, None].float(), noise], 1), labels


def test_a_linear_layer_learns_what_is_linear() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    before, _ = judged(model, bits, 250)
    losses = learn(model, model, bits, 150, seed=0, rate=0.05)
    accuracy, loss = judged(model, bits, 250)
    assert before < 0.9 < accuracy
    assert loss < losses[0]
    assert not model.training


def test_learning_is_the_same_for_the_same_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        found.append(learn(model, model, bits, 3, seed))
    assert found[0] == found[1] != found[2]


def test_means_are_over_the_rows_that_are_so() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 3, "b": "x"}, {"a": 9, "b": "y"}, {"c": 0}]
    assert mean(rows, "a", b="x") == 2


def test_exponent_of_a_square_and_of_a_constant() -> None:
    assert exponent((1, 10, 100), (3, 300, 30000)) == pytest.approx(2)
    assert exponent((1, 10, 100), (5, 5, 5)) == pytest.approx(0, abs=1e-6)


def test_the_plain_vit_normalises_like_the_backbones() -> None:
    model = PlainViT(28, 14, 16, 1, 2).eval()
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 28, 28)
    torch.testing.assert_close(model.classify(grey), model.vit(torch.zeros(1, 3, 28, 28)))


def test_near_tokens_are_found_by_their_features_but_not_by_chance() -> None:
    torch.manual_seed(0)
    features = F.normalize(torch.randn(2, 1, 100, 8), dim=-1)
    assert ecoformer.found_near(features, 100 * features) == pytest.approx(1, abs=0.05)
    assert ecoformer.found_near(features, torch.ones_like(features)) == pytest.approx(10 / 99, abs=0.03)


def test_random_codes_stay_random_in_training() -> None:
    model = ecoformer.swapped_for(ecoformer.EcoFormer(ecoformer.SIZES), ecoformer.RANDOM).train()
    before = [attn.hash.planes.clone() for attn in ecoformer.attentions(model)]
    model(torch.rand(1, 3, 1, 48, 48)).pooled.sum().backward()
    after = [attn.hash.planes for attn in ecoformer.attentions(model)]
    assert len(before) == 3
    assert all(map(torch.equal, before, after))


def test_every_contender_but_none_attends_in_the_stages_before_the_last() -> None:
    model = ecoformer.EcoFormer(ecoformer.SIZES)
    found = {
        name: {type(block.attn).__name__ for stage in swapped.stages[:-1] for block in stage}
        for name in (ecoformer.SOFTMAX, ecoformer.LEARNED, ecoformer.RANDOM, ecoformer.NONE)
        for swapped in [ecoformer.swapped_for(model, name)]
    }
    coded = {"EcoFormerAttention"}
    assert found == {"softmax": {"SharedAttention"}, "learned codes": coded, "random codes": coded} | {
        "no attention": {"Nothing"}
    }


def test_a_vit_on_the_whole_grid_sees_every_patch_and_one_on_few_does_not() -> None:
    torch.manual_seed(0)
    for grid, seen in ((lookupvit.WHOLE, 64), ((1, 2, 2), 16)):
        model = lookupvit.ResizedViT(grid).eval()
        pictures = torch.rand(1, 3, 1, 48, 48, requires_grad=True)
        model.classify(pictures).square().sum().backward()
        assert pictures.grad is not None
        assert int((F.max_pool2d(pictures.grad[:, :, 0].abs().amax(1), 6) > 0).sum()) == seen


def test_what_a_block_costs_for_few_tokens_alone() -> None:
    block = lookupvit.lookup_vit((1, 2, 2)).to("meta").blocks[0]
    few = torch.zeros(1, 4, lookupvit.DIM, device="meta")
    own = lookupvit.count_of_few(block, few)
    more = count_flops(block, few, torch.zeros(1, 50, lookupvit.DIM, device="meta"))
    each = count_flops(block, few, torch.zeros(1, 51, lookupvit.DIM, device="meta")) - more
    assert own + 50 * each == more


def test_the_grown_model_is_as_large_as_the_one_from_nothing() -> None:
    small = tokenformer.token_former(tokenformer.SMALL)
    sizes = {
        name: sum(p.numel() for p in tokenformer.begun(name, small)[0].parameters())
        for name in (tokenformer.GROWN, tokenformer.ANEW, tokenformer.STAYED, tokenformer.VIT)
    }
    assert sizes[tokenformer.GROWN] == sizes[tokenformer.ANEW] > 2 * sizes[tokenformer.STAYED]
    assert sizes[tokenformer.VIT] == pytest.approx(sizes[tokenformer.ANEW], rel=0.05)


def test_soft_splits_overlap_and_random_features_come_near_attention() -> None:
    assert (t2t_vit.reached(True), t2t_vit.reached(False)) == (4, 1)
    torch.manual_seed(0)
    errors = list(t2t_vit.distances_to_exact(20).values())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_a_part_that_is_left_out_no_longer_counts() -> None:
    torch.manual_seed(0)
    whole, places = PoNetMixer(ponet.DIM, ponet.HEADS), Places(pieces=3)
    x = torch.randn(1, 12, ponet.DIM)
    changed = x.clone()
    changed[:, 5] += 1  # neighbours reach 4 … 6, a segment of five 5 … 9, the whole all
    reach = {"global": {4, 5, 6, 7, 8, 9}, "segments": set(range(12)), "neighbours": set(range(12))}
    for part in ponet.PARTS:
        mixer = ponet.PartialMixer(ponet.DIM, ponet.HEADS, part)
        mixer.load_state_dict(whole.state_dict())
        moved = (mixer(changed, places) - mixer(x, places)).abs().amax((0, 2)) > 1e-7
        assert set(moved.nonzero()[:, 0].tolist()) == reach[part]
        assert not torch.equal(mixer(x, places), whole(x, places))


def test_rows_of_pixels_are_words_and_segments_are_rows() -> None:
    ids, labels = ponet.rows_of_pixels("test", torch.arange(4))
    assert ids.shape == (4, 196)
    assert 0 <= int(ids.min()) < int(ids.max()) < ponet.LEVELS
    assert labels.tolist() == [9, 2, 1, 1]
    assert 196 // ponet.ROWS + 1 == ponet.SIDE


def test_stripes_make_four_classes_of_every_shape() -> None:
    pictures, labels = crossvit.textured("test", torch.arange(400))
    assert pictures.shape == (400, 3, 1, 48, 48)
    assert labels.unique().tolist() == list(range(20))
    rows, columns = (pictures[:, 0, 0].diff(dim=axis).abs().mean((1, 2)) for axis in (1, 2))
    upright = labels % 2 == 1  # waves that follow each other down the picture
    assert (rows > columns)[upright].float().mean() > 0.9
    assert (rows < columns)[~upright].float().mean() > 0.9


def test_without_exchange_branches_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    for name, heard in ((crossvit.CROSS, True), (crossvit.APART, False)):
        model = crossvit.contender(name).eval()
        fine, coarse = model.embed(torch.rand(1, 3, 48, 48)).branches
        own, other = [fine, coarse], [fine, torch.randn_like(coarse)]
        for block in model.blocks:
            own, other = block(own), block(other)
        assert torch.equal(own[0], other[0]) != heard


def test_pyramids_are_of_as_many_parameters() -> None:
    strip, pyramid = (s2aformer.contender(name).params() for name in (s2aformer.STRIP, s2aformer.PVT))
    assert strip == pytest.approx(pyramid, rel=0.05)
