"""How SwinBERT learns: masked words, loss, groups, schedule; four captions learned by heart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from smalti.backbones.swinbert_captions import Writing, write
from smalti.backbones.swinbert_training import (
    IGNORED,
    CaptionMasking,
    CaptionObjective,
    parameter_groups,
    warm_then_linear,
    word_loss,
)
from smalti.errors import ConfigError
from tests.backbones.test_swinbert import build, pixels


def captions(rows: int = 500, words: int = 8) -> torch.Tensor:
    ids = torch.randint(104, 200, (rows, words + 4))
    ids[:, 0], ids[:, words + 1], ids[:, words + 2 :] = 101, 102, 0
    return ids


def test_half_of_the_words_are_masked_and_never_the_first_or_padding() -> None:
    ids = captions()
    masked = CaptionMasking()(ids, 200, torch.Generator().manual_seed(0))
    chosen = masked.targets != IGNORED
    assert (chosen.sum(1) == 5).all()  # of 10 with both ends
    assert not chosen[:, 0].any()
    assert not chosen[ids == 0].any()
    assert chosen[:, 9].any()  # the end is a word like others
    assert torch.equal(masked.targets[chosen], ids[chosen])
    assert torch.equal(masked.ids[~chosen], ids[~chosen])
    hidden = masked.ids[chosen]
    assert float((hidden == 103).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((hidden == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_at_least_one_word_and_at_most_as_many_as_said() -> None:
    short = torch.tensor([[101, 102, 0, 0]])
    assert CaptionMasking(share=0.0)(short, 200).targets.tolist() == [[IGNORED, 102, IGNORED, IGNORED]]
    few = CaptionMasking(most=2)(captions(3), 200)
    assert (few.targets != IGNORED).sum(1).tolist() == [2, 2, 2]


def test_the_loss_is_cross_entropy_or_smoothed_divergence() -> None:
    logits, targets = torch.randn(2, 4, 7), torch.randint(7, (2, 4))
    targets[0, 1] = IGNORED
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(word_loss(logits, targets), expected)
    at = targets != IGNORED
    truth = torch.full((7, 7), 0.1 / 6).fill_diagonal_(0.9)[targets[at]]
    divergence = F.kl_div(logits[at].log_softmax(-1), truth, reduction="batchmean")
    torch.testing.assert_close(word_loss(logits, targets, 0.1), divergence)


def test_the_mask_is_part_of_the_loss() -> None:
    model, ids, video = build(), captions(2), pixels()
    losses = [
        CaptionObjective(sparsity=weight).loss(model, video, ids, torch.Generator().manual_seed(1))
        for weight in (0.0, 2.0)
    ]
    torch.testing.assert_close(losses[1][0] - losses[0][0], 2 * model.mask.loss())
    _, parts = CaptionObjective().loss(build(masked_tokens=0), video, ids)
    assert parts.keys() == {"words"}


def test_groups_hold_every_parameter_once() -> None:
    model = build()
    groups = parameter_groups(model, 1.0, 0.05, 0.2)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    block = model.video.stages[0].blocks[0]
    assert rates[id(block.mlp.fc1.weight)] == (0.05, 0.2)
    assert rates[id(block.attn.bias.table)] == (0.05, 0.0)
    assert rates[id(model.words.norm.weight)] == (1.0, 0.0)
    assert rates[id(model.mask.weight)] == (1.0, 0.2)


def test_the_rate_rises_then_falls_in_straight_lines() -> None:
    assert [warm_then_linear(step, 100) for step in (0, 5, 10, 55, 100)] == [0, 0.5, 1, 0.5, 0]
    with pytest.raises(ConfigError):
        warm_then_linear(0, 0)


def test_captions_of_one_batch_are_learned_by_heart_and_the_mask_grows_sparse() -> None:
    model = build(masked_tokens=18).train()
    for parameter in model.encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    video = colours[:, :, None, None, None].expand(-1, -1, 4, 24, 24) * 0.9
    ids = torch.tensor([[101, 110, 120 + n, 130 + n, 102] for n in range(4)])
    before = float(model.mask.loss().detach())
    optimiser = torch.optim.AdamW(parameter_groups(model, 5e-3, 0.2, 0.0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        loss, _ = CaptionObjective().loss(model, video, ids, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(write(model.eval(), video, Writing(length=6)).ids[:, :5], ids)
    assert float(model.mask.loss().detach()) < before - 0.05
