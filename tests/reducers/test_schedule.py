"""Every way to say how many tokens leave, and where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import ConfigError
from smalti.reducers.hosts.base import Sizes
from smalti.reducers.schedule import Schedule, ramp

COST = Sizes(384, 1536.0).cost


def half(count: int) -> int:
    """The floor of a method that merges pairs behind one protected token."""
    return count - (count - 1) // 2


def spent(counts: tuple[int, ...], tokens: int, inside: bool) -> float:
    before = (tokens, *counts[:-1])
    return sum(map(COST, before, counts if inside else before)) / (len(counts) * COST(tokens, tokens))


def test_a_number_leaves_at_every_block_down_to_the_floor() -> None:
    assert Schedule(r=8).resolve(197, 12, protected=1) == tuple(range(189, 100, -8))
    assert Schedule(r=8).resolve(20, 4, protected=5) == (12, 5, 5, 5)
    assert Schedule(r=100).resolve(20, 4, protected=1, least=half) == (11, 6, 4, 3)
    assert Schedule(r=0).resolve(20, 2) == (20, 20)


def test_layers_are_the_schedules_then_the_methods_then_all() -> None:
    assert Schedule(r=2, layers=(3, 1)).resolve(10, 4, layers=(0,)) == (10, 8, 8, 6)
    assert Schedule(r=2).resolve(10, 4, layers=(0, 2)) == (8, 8, 6, 6)
    assert Schedule(r=2).resolve(10, 4) == (8, 6, 4, 2)
    twice = Schedule(keep=0.5, layers=(2, 2)).resolve(64, 4)
    assert twice == Schedule(keep=0.5, layers=(2,)).resolve(64, 4) == (64, 64, 32, 32)


def test_a_ramp_as_tome_counts_it() -> None:
    assert ramp(13, -1.0, 12)[0] == 26
    assert ramp(13, -1.0, 12)[-1] == 0
    assert ramp(8, 0.0, 5) == [8] * 5
    assert ramp(8, 1.0, 5) == [0, 4, 8, 12, 16]
    assert ramp(8, 0.5, 1) == [4]
    assert Schedule(r=(8, 1.0)).resolve(100, 5) == (100, 96, 88, 76, 60)
    assert Schedule(r=(8, 1.0), layers=(1, 3)).resolve(100, 5) == (100, 96, 96, 84, 84)


def test_a_list_is_padded_with_nothing() -> None:
    assert Schedule(r=[4, 0, 8]).resolve(40, 5) == (36, 36, 28, 28, 28)
    assert Schedule(r=[4, 0, 8]).resolve(40, 5, layers=(0,)) == (36, 36, 28, 28, 28)
    assert Schedule(r=[4, 0, 8]).resolve(40, 2) == (36, 36)


def test_counts_are_the_counts() -> None:
    assert Schedule(counts=(50, 30)).resolve(40, 4) == (40, 30, 30, 30)
    assert Schedule(counts=[5]).resolve(40, 3, protected=5) == (5, 5, 5)


@given(
    tokens=st.integers(9, 600),
    depth=st.integers(1, 24),
    keep=st.floats(0.05, 1),
    protected=st.integers(0, 5),
    every=st.booleans(),
)
def test_a_share_is_reached_to_the_token(tokens, depth, keep, protected, every) -> None:
    layers = range(depth) if every else sorted({depth // 2, depth - 1})
    counts = Schedule(keep=keep).resolve(tokens, depth, protected=protected, layers=layers)
    assert len(counts) == depth
    assert abs((counts[-1] - protected) - (tokens - protected) * keep) <= 0.5 or counts[-1] == max(
        protected, 1
    )
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[0] <= tokens
    assert counts[-1] >= max(protected, 1)


def test_a_share_is_spread_over_the_layers() -> None:
    assert Schedule(keep=0.5).resolve(65, 4, protected=1) == (57, 49, 41, 33)  # equal numbers
    few = Schedule(keep=0.125).resolve(65, 12, protected=1, layers=(2, 5, 8))  # equal shares
    assert [few[i] for i in (1, 2, 5, 8, 11)] == [65, 33, 17, 9, 9]


def test_a_share_that_pairs_cannot_reach_is_refused() -> None:
    assert Schedule(keep=0.5).resolve(65, 4, protected=1, least=half)[-1] == 33
    with pytest.raises(ConfigError, match="33 is the least"):
        Schedule(keep=0.25, layers=(1,)).resolve(65, 4, protected=1, least=half)
    with pytest.raises(ConfigError, match="at least 33"):
        Schedule(counts=(20,)).resolve(65, 4, protected=1, least=half)


@pytest.mark.parametrize("flops", [0.35, 0.5, 0.6, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("layers", [None, (2, 5, 8), (0,)])
def test_a_share_of_arithmetic_is_met_within_a_token(flops, inside, layers) -> None:
    counts = Schedule(flops=flops).resolve(197, 12, protected=1, layers=layers, cost=COST, inside=inside)
    found = spent(counts, 197, inside)
    one_more = tuple(min(count + 1, 197) if count < 197 else count for count in counts)
    assert found <= flops + 1e-12
    assert flops == 1 or spent(one_more, 197, inside) > flops
    assert list(counts) == sorted(counts, reverse=True)
    if flops == 1:
        assert counts == (197,) * 12


def test_arithmetic_inside_a_block_counts_fewer_tokens_for_its_mlp() -> None:
    inside, after = (
        Schedule(flops=0.6).resolve(197, 12, protected=1, cost=COST, inside=place) for place in (True, False)
    )
    assert inside[-1] > after[-1]  # what leaves earlier saves more


def test_arithmetic_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ConfigError, match="is the least"):
        Schedule(flops=0.3, layers=(9,)).resolve(197, 12, protected=1, cost=COST)
    with pytest.raises(ConfigError, match="cost"):
        Schedule(flops=0.3).resolve(197, 12)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "give one"),
        ({"r": 3, "keep": 0.5}, "give one"),
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"keep": float("nan")}, "keep"),
        ({"flops": -0.1}, "flops"),
        ({"r": -1}, "-1"),
        ({"r": [3, -1]}, "-1"),
        ({"r": (8, 5.0)}, "inflection"),
        ({"counts": (5, -3)}, "-3"),
        ({"counts": ()}, "fall"),
        ({"counts": (30, 40)}, "fall"),
        ({"counts": (30, 20), "layers": (1,)}, "layers"),
        ({"r": [3, 2], "layers": (1,)}, "layers"),
    ],
)
def test_what_means_nothing_is_refused(wrong, says) -> None:
    with pytest.raises(ConfigError, match=says):
        Schedule(**wrong)


@pytest.mark.parametrize("layers", [(), (4,), (-1,)])
def test_layers_that_do_not_exist_are_refused(layers) -> None:
    with pytest.raises(ConfigError, match="4 blocks"):
        Schedule(r=2, layers=layers).resolve(10, 4)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 counts"):
        Schedule(counts=(9, 8, 7)).resolve(10, 2)
    with pytest.raises(ConfigError, match="at least 3"):
        Schedule(counts=(2,)).resolve(10, 2, protected=3)
