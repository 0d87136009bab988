"""COMMIT: regions, masks, and generation with conditions that are refined."""

from itertools import pairwise

import pytest
import torch

from smalti.errors import ConfigError
from smalti.generators.magvit_commit import (
    MASK,
    TASKS,
    condition,
    cosine_ratio,
    generate,
    mask_tokens,
)
from smalti.generators.magvit_transformer import MagvitTransformer, MagvitTransformerConfig
from smalti.nn.bert_encoder import BertConfig

GRID = (4, 4, 4)


def clip() -> torch.Tensor:
    return torch.rand(2, 3, 8, 16, 16) + 0.1


@pytest.mark.parametrize("task", TASKS)
def test_what_is_given_is_left_alone(task) -> None:
    pixels = clip()
    given = condition(task, pixels, GRID)
    assert given.pixels.shape == pixels.shape
    assert given.region.shape == (1, *GRID)
    if task == "class_generation":
        assert not given.region.any()
        return
    inside = given.region[0].repeat_interleave(2, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    if task in ("frame_prediction", "class_frame_prediction", "frame_interpolation"):
        assert torch.equal(given.pixels[:, :, 0], pixels[:, :, 0])
        return
    same = (given.pixels == pixels).all(1).all(0)
    assert same[inside].float().mean() > (0.7 if "dynamic" in task else 0.99)
    assert not same[~inside].all()


def test_ratios_follow_the_cosine() -> None:
    tokens = torch.randint(9, (2, *GRID))
    for progress in (0.0, 0.3, 0.7, 0.99):
        ratio = cosine_ratio(torch.full((2,), progress))
        masked = mask_tokens(tokens, torch.rand(2, *GRID), ratio)
        count = int(64 * torch.cos(torch.tensor(progress) * torch.pi / 2))
        assert masked.replaced.flatten(1).sum(1).tolist() == [max(count, 1)] * 2
        assert (masked.tokens == MASK).equal(masked.replaced)


def test_condition_tokens_are_never_masked_and_may_be_refined() -> None:
    tokens, given = torch.zeros(2, *GRID, dtype=torch.long), torch.full((2, *GRID), 5)
    region = condition("outpaint_central", clip(), GRID).region
    masked = mask_tokens(tokens, torch.rand(2, *GRID), torch.ones(2), condition_tokens=given, region=region)
    inside = region.expand_as(tokens)
    assert (masked.tokens[inside] == 5).all()
    assert (masked.tokens[~inside] == MASK).all()
    assert masked.replaced.all()
    assert (masked.without == MASK).all()


@pytest.mark.parametrize(("mode", "inside"), [("input->input", 0), ("cond->cond", 5)])
def test_other_modes_leave_the_region_for_good(mode, inside) -> None:
    tokens, given = torch.zeros(2, *GRID, dtype=torch.long), torch.full((2, *GRID), 5)
    region = condition("frame_prediction", clip(), GRID).region
    masked = mask_tokens(
        tokens, torch.rand(2, *GRID), torch.ones(2), condition_tokens=given, region=region, mode=mode
    )
    assert (masked.tokens[:, :1] == inside).all()
    assert (masked.tokens[:, 1:] == MASK).all()
    assert masked.weights[:, :1].sum() == 0


def test_generation_leaves_no_mask_and_follows_certain_logits() -> None:
    wanted = torch.randint(7, (2, *GRID))
    seen = []

    def predict(tokens):
        seen.append((tokens == MASK).sum().item())
        return torch.nn.functional.one_hot(wanted, 7) * 50.0

    found = generate(predict, (2, *GRID), steps=12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, wanted)
    assert len(seen) == 12
    assert seen[0] == 128
    assert all(later < before for before, later in pairwise(seen))


def test_the_first_input_of_generation_holds_the_condition() -> None:
    given = torch.full((1, *GRID), 3)
    region = condition("frame_prediction", clip(), GRID).region
    seen = []

    def predict(tokens):
        seen.append(tokens.clone())
        return torch.zeros(*tokens.shape, 7)

    found = generate(predict, (1, *GRID), condition_tokens=given, region=region, guidance=0.5, steps=3)
    assert (seen[0][:, :1] == 3).all()
    assert (seen[1] == MASK).all()
    assert len(seen) == 6
    assert (found >= 0).all()
    kept = generate(predict, (1, *GRID), condition_tokens=given, region=region, mode="cond->cond", steps=3)
    assert (kept[:, :1] == 3).all()


def test_the_transformer_learns_from_masked_tokens_and_generates() -> None:
    torch.manual_seed(0)
    config = MagvitTransformerConfig(
        8, (1, 2, 2), 3, BertConfig(dim=16, depth=1, heads=2, hidden=32, kinds=1, dropout=0.0)
    )
    model = MagvitTransformer(config)
    tokens = torch.tensor([0, 3, 5, 7]).view(1, 1, 2, 2).expand(8, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        ratio = cosine_ratio(torch.rand(8))
        loss = model.loss(mask_tokens(tokens, torch.rand(8, 1, 2, 2), ratio), "frame_prediction")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    found = generate(lambda given: model(given, "frame_prediction"), (4, 1, 2, 2), steps=4)
    assert (found == tokens[:4]).float().mean() > 0.9
    labelled = model(tokens, labels=torch.arange(8) % 3)
    assert labelled.shape == (8, 1, 2, 2, 8)
    assert not torch.allclose(labelled[0], labelled[1])


@pytest.mark.parametrize(("preset", "millions"), [("B", 87), ("L", 306)])
def test_the_transformer_has_the_published_size(preset, millions) -> None:
    from smalti.generators.magvit_transformer import PRESETS

    with torch.device("meta"):
        model = MagvitTransformer(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.02)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="task"):
        condition("outpaint", clip(), GRID)
    with pytest.raises(ConfigError, match="leave nothing"):
        condition("frame_interpolation", clip(), GRID, frames=4)
    with pytest.raises(ConfigError, match="needs"):
        mask_tokens(
            torch.zeros(1, *GRID).long(),
            torch.rand(1, *GRID),
            torch.ones(1),
            region=torch.ones(1, *GRID).bool(),
        )
