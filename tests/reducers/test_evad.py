"""Keyframe-centric pruning: counts, what stays, weights of queries, and the way back to a whole clip."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.reducers import Context, Gather
from smalti.reducers.evad import EVAD, EVADConfig, unprune

GRID = (4, 2, 3)
AREA, SIZE = 6, 24


def context(attention: torch.Tensor, protected: int = AREA, **given) -> Context:
    def received(queries: str) -> torch.Tensor:
        assert queries == "all"
        return attention.mean((1, 2))

    return Context(attention=received, attention_map=lambda: attention, protected=protected, **given)


def attention(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size).softmax(-1)


def test_counts_follow_the_papers_clip():
    size, counts = 8 * 18 * 18, []
    for _ in range(3):
        scores = torch.rand(1, size)
        asked = Context(attention=lambda _, s=scores: s, protected=18 * 18)
        size = EVAD().reduce(torch.zeros(1, size, 1), asked).count
        counts.append(size)
    assert counts == [1815, 1271, 890]


def test_the_keyframe_stays_in_order_and_others_by_score():
    x, a = torch.randn(2, SIZE, 5), attention()
    found = EVAD().reduce(x, context(a), 15)
    assert isinstance(found, Gather)
    assert torch.equal(found.index[:, :AREA], torch.arange(AREA).expand(2, -1))
    best = a.mean((1, 2))[:, AREA:].topk(15 - AREA, -1).indices + AREA
    assert torch.equal(found.index[:, AREA:], best)
    in_order = EVAD(EVADConfig(order="position")).reduce(x, context(a), 15)
    assert torch.equal(in_order.index, found.index.sort(-1).values)


def test_a_keyframe_in_the_middle_behind_a_class_token():
    x, a = torch.randn(2, SIZE + 1, 5), attention(SIZE + 1)
    frames = torch.cat([torch.tensor([-1]), torch.arange(4).repeat_interleave(AREA)]).expand(2, -1)
    found = EVAD().reduce(x, context(a, 1, frames=frames), 12)
    assert torch.equal(found.index[:, :7], torch.tensor([0, *range(13, 19)]).expand(2, -1))
    other = EVAD(EVADConfig(keyframe=0)).reduce(x, context(a, 1, frames=frames), 12)
    assert torch.equal(other.index[:, :7], torch.arange(7).expand(2, -1))
    few = EVAD().reduce(x, context(a, 1, frames=frames), 4)
    best = a.mean((1, 2))[:, 13:19].topk(3, -1).indices + 13
    assert torch.equal(few.index[:, 1:], best)


def test_a_heavy_keyframe_decides_alone():
    x, a = torch.randn(2, SIZE, 5), attention()
    heavy = EVAD(EVADConfig(enhanced_weight=1e5)).reduce(x, context(a), 12)
    best = a[:, :, :AREA].mean((1, 2))[:, AREA:].topk(6, -1).indices + AREA
    assert torch.equal(heavy.index[:, AREA:], best)
    light = EVAD().reduce(x, context(a), 12)
    assert not torch.equal(light.index, heavy.index)


def test_nothing_leaves_at_a_rate_of_one():
    found = EVAD(EVADConfig(keep_rate=1.0)).reduce(torch.randn(2, SIZE, 5), context(attention()))
    assert torch.equal(found.index, torch.arange(SIZE).expand(2, -1))


def test_layers_of_the_paper():
    assert EVAD().layers(12) == (3, 6, 9)
    assert EVAD().layers(24) == (6, 12, 18)


def test_equal_tokens_and_small_floats():
    even = torch.full((2, 3, SIZE, SIZE), 1 / SIZE, dtype=torch.bfloat16)
    x = torch.ones(2, SIZE, 5, dtype=torch.bfloat16)
    found = EVAD(EVADConfig(enhanced_weight=4.0)).reduce(x, context(even), 10)
    assert torch.equal(found.index, torch.arange(10).expand(2, -1))
    assert found.apply(x).dtype == torch.bfloat16


@pytest.mark.parametrize("sorted_", [True, False])
def test_dropped_tokens_are_filled(sorted_):
    clip = torch.arange(float(SIZE)).view(1, SIZE, 1)
    front = torch.cat([clip[:, 12:18], clip[:, :12], clip[:, 18:]], 1)
    index = torch.tensor([[15, 2, 7]])
    x = torch.cat([front[:, :AREA], front[:, AREA:].gather(1, index[..., None])], 1)
    full = unprune(x, index, torch.full((1, 1, 1), -1.0), GRID, sorted=sorted_).flatten()
    assert full[12:18].tolist() == list(range(12, 18))
    places = [21, 2, 7] if sorted_ else [2, 7, 21]
    assert full[places].tolist() == [21, 2, 7]
    assert int((full == -1).sum()) == SIZE - 9


def test_refusals():
    with pytest.raises(ConfigError, match="keep_rate"):
        EVADConfig(keep_rate=0.0)
    with pytest.raises(ConfigError, match="enhanced_weight"):
        EVADConfig(enhanced_weight=0.0)
