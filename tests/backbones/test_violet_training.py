"""How VIOLET learns: codes of cells, matching, the whole loss; a tiny batch learned by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from smalti.backbones.violet_masking import Masking
from smalti.backbones.violet_training import (
    PretrainingObjective,
    candidates,
    cell_codes,
    choose,
    code_targets,
    guess_loss,
    match,
    pair_scores,
)
from smalti.errors import ConfigError
from tests.backbones.test_violet import build, pixels, texts


def brightness(frames: torch.Tensor) -> torch.Tensor:
    """A tokenizer of patches of 8: their brightness in 30 steps."""
    return (F.avg_pool2d(frames.mean(1, keepdim=True), 8)[:, 0] * 29).round()


def test_an_id_is_that_of_its_cell_alone() -> None:
    video = torch.full((2, 3, 3, 96, 64), 0.2)
    codes = cell_codes(brightness, video)
    assert codes.shape == (2, 3, 3, 2)
    video[1, :, 2, 64:96, 32:64] = 0.9
    changed = cell_codes(brightness, video) != codes
    assert changed.nonzero().tolist() == [[1, 2, 2, 1]]


def test_codes_need_whole_cells_and_a_tokenizer_of_the_grid() -> None:
    with pytest.raises(ConfigError, match="whole cells"):
        cell_codes(brightness, pixels(1, 1, 40, 32))
    with pytest.raises(ConfigError, match="tokenizer gave"):
        cell_codes(lambda frames: frames[:, 0], pixels(1, 1, 64, 32))


def test_targets_stand_at_hidden_cells_and_nowhere_else() -> None:
    codes = torch.arange(24).view(1, 2, 3, 4)
    cells = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    cells[0, 1, 0, 2] = cells[0, 0, 2, 3] = True
    targets = code_targets(codes, cells)
    assert targets.shape == (1, 2 * 13)
    assert [(i, int(targets[0, i])) for i in (targets[0] >= 0).nonzero().flatten()] == [(12, 11), (16, 14)]


def test_candidates_begin_with_the_own_text_and_hold_none_twice() -> None:
    chosen = candidates(6, 4)
    assert torch.equal(chosen[:, 0], torch.arange(6))
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    assert candidates(3, 4).shape == (3, 3)
    others = {int(n) for _ in range(40) for n in candidates(6, 2)[0, 1:]}
    assert others == {1, 2, 3, 4, 5}


@torch.no_grad()
def test_matching_pairs_is_answering_them_one_by_one() -> None:
    model, video = build(), pixels(2)
    ids, mask = texts(3)
    scores = pair_scores(model, video, ids, mask)
    for row in range(2):
        for column in range(3):
            one = model.answer(video[row : row + 1], ids[column : column + 1], mask[column : column + 1])
            torch.testing.assert_close(scores[row, column], one[0, 0] / 0.05, atol=1e-4, rtol=1e-4)
    options = choose(model, video, torch.stack([ids[:2], ids[1:]]), torch.stack([mask[:2], mask[1:]]))
    expected = torch.stack([scores[0, :2], scores[1, 1:]]) * 0.05
    torch.testing.assert_close(options, expected, atol=1e-4, rtol=1e-4)


def test_a_model_that_answers_does_not_match() -> None:
    model = build(outputs=5)
    ids, mask = texts()
    with pytest.raises(ConfigError, match="outputs must be 1"):
        match(model, torch.zeros(2, 3, 16), model.words(ids), mask, torch.zeros(2, 1, dtype=torch.long))


@torch.no_grad()
def test_what_is_hidden_does_not_leak() -> None:
    model, video = build(), pixels()
    ids, real = texts()
    masking = Masking(attended=0.0)
    hidden = masking(model, video, ids, real, torch.Generator().manual_seed(0))
    other = torch.where(hidden.pixels == 0, torch.rand_like(video), video)
    again = masking(model, other, ids, real, torch.Generator().manual_seed(0))
    assert not torch.equal(other, video)
    assert torch.equal(model(hidden.pixels).tokens, model(again.pixels).tokens)


def test_nothing_to_guess_costs_nothing() -> None:
    assert guess_loss(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)) == 0
    assert float(guess_loss(torch.zeros(3, 5), torch.tensor([0, 1, 2]))) == pytest.approx(math.log(5))


def test_the_loss_is_the_sum_of_its_parts_and_reaches_everything() -> None:
    model, video = build(), pixels(4)
    ids, real = texts(4)
    codes = torch.randint(30, (4, 3, 3, 4))
    objective = PretrainingObjective(Masking(share=0.3))
    loss, parts = objective.loss(model, video, ids, real, codes, torch.Generator().manual_seed(0))
    assert parts.keys() == {"words", "codes", "match"}
    torch.testing.assert_close(loss.detach(), torch.stack(list(parts.values())).sum())
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    _, alone = objective.loss(model, video[:1], ids[:1], real[:1], codes[:1])
    assert alone.keys() == {"words", "codes"}
    with pytest.raises(ConfigError, match="pretraining"):
        objective.loss(build(codes=0), video, ids, real, codes)


def test_a_batch_is_learned_by_heart() -> None:
    model = build().train()
    colours = torch.tensor([[0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.9], [0.9, 0.9, 0.9]])
    video = colours[:, :, None, None, None].expand(-1, -1, 2, 8, 16).contiguous()
    codes = torch.arange(4)[:, None, None, None].expand(-1, 2, 1, 2) * 7
    ids = torch.tensor([[101, 110 + n, 130 + n, 102, 0] for n in range(4)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(70):
        loss, parts = PretrainingObjective().loss(model, video, ids, ids != 0, codes, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(torch.stack([parts["codes"], parts["match"]]))
    late = torch.stack(history[-20:]).mean(0)
    assert float(late[0]) < 0.5 * math.log(30)
    assert float(late[1]) < 0.5 * math.log(4)
    assert torch.equal(pair_scores(model.eval(), video, ids, ids != 0).argmax(1), torch.arange(4))
