"""The controls are what they are called."""

from __future__ import annotations

import torch

import smalti
from smalti.reducers import Assign, Context, Gather


def test_random_is_one_draw_for_all_samples_and_another_for_every_seed_and_block() -> None:
    x = torch.randn(3, 50, 4)

    def index(seed: int, layer: int = 0) -> torch.Tensor:
        reducer = smalti.create("random", seed=seed, room="reducers")
        found = reducer.reduce(x, Context(protected=1, layer=layer), 20)
        assert isinstance(found, Gather)
        return found.index

    assert torch.equal(index(0)[0], index(0)[2])
    assert torch.equal(index(3), index(3))
    assert not torch.equal(index(0), index(1))
    assert not torch.equal(index(0), index(0, layer=1))
    assert (index(0).diff() > 0).all()  # in their order
    assert (index(0)[:, 0] == 0).all()


def test_random_may_merge() -> None:
    x = torch.randn(2, 30, 4)
    kept = smalti.create("random", room="reducers").reduce(x, Context(), 7)
    merged = smalti.create("random", room="reducers", strategy="merge").reduce(x, Context(), 7)
    assert isinstance(merged, Assign)
    assert merged.source_map[0, kept.index[0]].tolist() == list(range(7))


def test_uniform_keeps_every_so_manieth() -> None:
    found = smalti.create("uniform", room="reducers").reduce(torch.randn(1, 13, 2), Context(protected=1), 4)
    assert found.index.tolist() == [[0, 3, 7, 11]]


def test_pool_is_an_average_pooling_of_the_grid() -> None:
    x = torch.randn(2, 65, 3)
    found = smalti.create("pool", room="reducers").reduce(x, Context(protected=1, grid=(1, 8, 8)), 17)
    picture = x[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    pooled = torch.nn.functional.avg_pool2d(picture, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.apply(x)[:, 1:], pooled)
    assert found.mass.tolist() == [[1.0] + [4.0] * 16] * 2


def test_attention_grows_with_mass_where_tokens_stand_for_several() -> None:
    proportional = {card.name: card.cls().proportional for card in smalti.systems("reducers", "control")}
    assert proportional == {"pool": True, "random": False, "uniform": False}
