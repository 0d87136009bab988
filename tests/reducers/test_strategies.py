"""Each strategy does with a judgement what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError
from smalti.reducers import Assign, Context, Dense, Gather, Reduction
from smalti.reducers.criteria import Judgement
from smalti.reducers.strategies import TEMPERATURE, best, strategy_of

SCORES = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2]])


def done(name: str, tokens: Tensor, count: int, scores: Tensor = SCORES, group=None, **given) -> Reduction:
    return strategy_of(name)(tokens, Judgement(scores, group), count, Context(**given))


def test_the_best_in_their_order_and_of_equals_the_first() -> None:
    assert best(SCORES, 2).tolist() == [[1, 3]]
    assert best(torch.zeros(1, 6), 3).tolist() == [[0, 1, 2]]


def test_pruning_keeps_the_best_and_what_they_stand_for() -> None:
    found = done("prune", torch.randn(1, 5, 2), 3, mass=torch.tensor([[1.0, 2, 3, 4, 5]]))
    assert isinstance(found, Gather)
    assert found.index.tolist() == [[1, 2, 3]]
    assert found.mass.tolist() == [[2.0, 3, 4]]


def test_fusing_puts_the_mean_of_the_rest_last() -> None:
    x, mass = torch.tensor([[[1.0], [10], [2], [20], [3]]]), torch.tensor([[1.0, 1, 2, 1, 1]])
    found = done("fuse", x, 3, mass=mass)
    assert found.apply(x).flatten().tolist() == [10.0, 20.0, 2.0]  # (1 + 2·2 + 3) / 4
    assert found.mass.tolist() == [[1.0, 1, 4]]
    assert found.source_map.tolist() == [[2, 0, 2, 1, 2]]
    assert done("fuse", x, 1).apply(x).item() == pytest.approx(36 / 5)


def test_merging_joins_the_most_similar_of_the_best() -> None:
    x = torch.tensor([[[1.0, 0.1], [9, 0], [0.1, 1], [0, 5], [3, 1]]])
    found = done("merge", x, 2)
    assert found.source_map.tolist() == [[0, 0, 1, 1, 0]]
    reverse = done("merge", x, 2, keys=lambda: x.flip(1))
    assert reverse.source_map.tolist() == [[1, 0, 0, 1, 1]]


def test_merging_takes_the_groups_of_a_criterion_that_groups() -> None:
    group = torch.tensor([[1, 0, 1, 0, 0]])
    found = done("merge", torch.randn(1, 5, 2), 2, group=group)
    assert isinstance(found, Assign)
    assert torch.equal(found.group, group)


def test_the_best_stay_apart_among_equal_tokens() -> None:
    for name in ("merge", "cluster"):
        found = done(name, torch.ones(1, 5, 2), 3)
        assert found.source_map[0, [1, 2, 3]].tolist() == [0, 1, 2]
        assert found.mask.all()


def test_clustering_moves_where_merging_does_not() -> None:
    x = torch.tensor([[[0.0], [4], [5], [10], [3.5]]])  # 4 and 10 are the best
    scores = torch.tensor([[0.0, 1, 0, 1, 0]])
    assert done("cluster", x, 2, scores).source_map.tolist() == [[0, 0, 0, 1, 0]]
    heavy = torch.tensor([[1.0, 1, 1, 1, 1]])
    near = torch.tensor([[[0.0], [4], [7.1], [10], [0]]])  # nearer to 10 at first and afterwards
    assert done("cluster", near, 2, scores, mass=heavy).source_map.tolist() == [[0, 0, 1, 1, 0]]
    weighed = torch.tensor([[1.0, 1, 1, 1000, 1]])
    between = torch.tensor(
        [[[0.0], [4], [6.9], [10], [6.8]]]
    )  # 6.8 and 6.9 draw the mean up, a weight holds it
    light = done("cluster", between, 2, scores).source_map
    assert light[0, [2, 4]].tolist() == [0, 0]
    assert done("cluster", between, 2, scores, mass=weighed).source_map[0, 3] == 1


def test_pooling_makes_blocks_of_the_grid() -> None:
    found = done("pool", torch.randn(1, 16, 2), 4, torch.zeros(1, 16), grid=(1, 4, 4))
    assert found.source_map.view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    film = done("pool", torch.randn(1, 32, 2), 8, torch.zeros(1, 32), grid=(2, 4, 4)).source_map
    assert torch.equal(film[:, 16:], film[:, :16] + 4)


def test_pooled_blocks_are_as_square_as_can_be() -> None:
    found = done("pool", torch.randn(1, 144, 2), 12, torch.zeros(1, 144), grid=(1, 12, 12)).source_map
    for group in range(12):
        places = (found.view(12, 12) == group).nonzero()
        assert sorted(len(axis.unique()) for axis in places.T) == [3, 4]


@pytest.mark.parametrize(("grid", "count"), [((1, 3, 5), 7), ((3, 2, 2), 4), (None, 6), ((4, 2, 2), 2)])
def test_pooling_falls_back_on_runs(grid, count) -> None:
    size = grid[0] * grid[1] * grid[2] if grid else 17
    group = done("pool", torch.randn(2, size, 2), count, torch.zeros(2, size), grid=grid).source_map
    assert (group.diff() >= 0).all()
    lengths = group[0].bincount(minlength=count)
    assert lengths.max() - lengths.min() <= 1


def test_pooling_refuses_another_grid() -> None:
    with pytest.raises(ConfigError, match="2×4×4"):
        done("pool", torch.randn(1, 16, 2), 4, torch.zeros(1, 16), grid=(2, 4, 4))


def test_transforming_shares_every_token_out_by_cosines() -> None:
    x = torch.nn.functional.normalize(torch.randn(1, 5, 4), dim=-1)
    mass = torch.tensor([[1.0, 2, 1, 1, 3]])
    found = done("transform", x, 2, mass=mass)
    assert isinstance(found, Dense)
    assert found.back is not None
    shares = (x[0] @ x[0, [1, 3]].T / TEMPERATURE).softmax(-1)
    torch.testing.assert_close(found.back[0], shares)
    torch.testing.assert_close(found.mass[0], (shares * mass[0, :, None]).sum(0))
    torch.testing.assert_close(
        found.apply(x)[0] * found.mass[0, :, None], shares.T @ (x[0] * mass[0, :, None])
    )


def test_resampling_is_attention_of_the_best() -> None:
    x = torch.nn.functional.normalize(torch.randn(1, 5, 4), dim=-1)
    found = done("resample", x, 2)
    torch.testing.assert_close(found.matrix()[0], (x[0, [1, 3]] @ x[0].T / TEMPERATURE).softmax(-1))
    twice = torch.cat([x, x[:, 4:]], 1)
    scores = torch.cat([SCORES, torch.zeros(1, 1)], 1)
    heavy = done("resample", x, 2, mass=torch.tensor([[1.0, 1, 1, 1, 2]]))
    torch.testing.assert_close(heavy.apply(x), done("resample", twice, 2, scores).apply(twice))


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="merge"):
        strategy_of("merg")
