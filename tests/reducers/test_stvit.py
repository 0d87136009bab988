"""Semantic tokens: counts, mass, places, clusters."""

import pytest
import torch

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers import Context, Dense
from smalti.reducers.stvit import STViT, STViTConfig, cells, layout

LEARNED = STViTConfig(dim=8, heads=2, pooling="masked", global_centres=True)


@pytest.mark.parametrize("config", [STViTConfig(), LEARNED, STViTConfig(side=3, window=4, reach=6)])
@pytest.mark.parametrize(("count", "protected"), [(3, 2), (2, 2), (18, 2), (17, 0), (40, 1)])
def test_the_contract(config, count, protected):
    x = torch.randn(3, 56 + protected, 8)
    mass = torch.rand(3, 56 + protected) + 0.5
    reducer = STViT(config)
    given = Context(grid=(1, 7, 8), protected=protected, mass=mass)
    found = reducer.reduce(x, given, count)
    assert found.count == count
    assert torch.equal(found.apply(x)[:, :protected], x[:, :protected])
    if count > protected:
        torch.testing.assert_close(found.mass.sum(1), mass.sum(1))
        assert int(found.source_map.min()) >= 0
        torch.testing.assert_close(found.matrix().sum(-1), torch.ones(3, count))
    one = reducer.reduce(x[1:2], Context(grid=(1, 7, 8), protected=protected, mass=mass[1:2]), count)
    torch.testing.assert_close(one.matrix(), found.matrix()[1:2])
    assert found.restore(found.apply(x)).shape == x.shape


def test_its_own_count():
    x = torch.randn(1, 2 * 14 * 14, 8)
    assert STViT().reduce(x, Context(grid=(2, 14, 14)), None).count == 32
    found = STViT(STViTConfig(side=3, window=7)).reduce(x, Context(grid=(2, 14, 14)))
    assert found.count == 72
    assert STViT().reduce(x[:, :9], Context(grid=(1, 3, 3))).count == 9


def test_cells_are_square():
    assert layout((1, 14, 14), 16) == (4, 4)
    assert layout((2, 14, 28), 16) == (2, 4)
    assert layout((1, 4, 4), 7) is None
    assert cells(16, (1, 4, 4), 4).view(4, 4).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]
    assert cells(6, None, 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_centres_see_their_window_alone():
    reducer = STViT(STViTConfig(side=3, window=7, reach=10))
    x = torch.randn(1, 14, 14, 8)
    changed = x.clone()
    changed[:, 10:, 10:] += 3 * torch.randn(1, 4, 4, 8)
    context = Context(grid=(1, 14, 14))
    before, after = (
        reducer.reduce(t.flatten(1, 2), context, 36).apply(t.flatten(1, 2)) for t in (x, changed)
    )
    same = (before == after).all(-1).view(6, 6)
    assert bool(same[:3, :3].all())
    assert not bool(same[3:, 3:].any())
    matrix = reducer.reduce(x.flatten(1, 2), context, 36).matrix()
    assert int((matrix[0, 0] > 0).sum()) == 100


def test_frames_keep_to_themselves():
    x = torch.randn(1, 2 * 16, 8)
    found = STViT(STViTConfig(side=2, window=4, reach=4)).reduce(x, Context(grid=(2, 4, 4)), 8)
    assert float(found.matrix()[0, :4, 16:].abs().sum()) == 0
    assert float(found.restore(found.apply(x)).abs().sum()) > 0


def test_attention_clusters_better_than_pooling():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 64, generator=generator) * 3
    found, pooled = [], []
    for seed in range(5):
        generator.manual_seed(seed)
        label = torch.arange(64) // 16
        swapped = torch.rand(64, generator=generator) < 0.4
        label = torch.where(swapped, torch.randint(4, (64,), generator=generator), label)
        x = (centres[label] + 0.5 * torch.randn(64, 64, generator=generator))[None]
        for steps, into in ((0, pooled), (2, found)):
            reduction = STViT(STViTConfig(steps=steps)).reduce(x, Context(), 4)
            into.append(float(torch.cdist(centres, reduction.apply(x)[0]).min(1).values.mean()))
    assert sum(found) < 0.5 * sum(pooled)


def test_recovery_gives_every_token_its_cluster():
    centres = torch.eye(4, 16) * 8
    label = torch.arange(32) // 8
    found = STViT().reduce(centres[label][None], Context(), 4)
    assert torch.equal(found.source_map[0], label)
    torch.testing.assert_close(
        found.restore(found.apply(centres[label][None]))[0], centres[label], atol=0.8, rtol=0
    )


def test_equal_tokens_and_small_floats():
    x = torch.ones(2, 16, 8, dtype=torch.float16)
    found = STViT().reduce(x, Context(grid=(1, 4, 4)), 4)
    assert isinstance(found, Dense)
    assert found.apply(x).dtype == torch.float16
    torch.testing.assert_close(found.apply(x), x[:, :4])


def test_learned_parts_learn():
    reducer = STViT(LEARNED)
    x = torch.randn(2, 36, 8)
    found = reducer.reduce(x, Context(grid=(1, 6, 6)))
    found.restore(found.apply(x)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in reducer.parameters())


def test_refusals():
    with pytest.raises(ConfigError, match="give dim"):
        STViTConfig(pooling="masked")
    with pytest.raises(UnsupportedError, match="grid"):
        STViT(STViTConfig(window=4)).reduce(torch.randn(1, 16, 8), Context(), 4)
    assert STViT().layers(12) == (3,)
