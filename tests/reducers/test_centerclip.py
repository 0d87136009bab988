"""CenterCLIP's reductions: order, exact counts, planted clips, baselines."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.reducers import Assign, Context, Gather
from smalti.reducers.centerclip import CenterCLIP, CenterCLIPConfig, cluster_tokens, plan, sparse_positions

ALGORITHMS = ["kmedoids", "spectral", "pooling", "sparse"]


def tokens(batch: int = 2, frames: int = 6, plane: int = 9, dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, frames, plane, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("grid", [(6, 3, 3), (1, 6, 9), (5, 2, 4), None])
def test_any_count_is_met_behind_protected_tokens(algorithm, grid) -> None:
    size = 40 if grid == (5, 2, 4) else 54
    x = torch.randn(2, size + 1, 8, generator=torch.Generator().manual_seed(0))
    reducer = CenterCLIP(CenterCLIPConfig(algorithm=algorithm)).eval()
    for count in (1, 2, 3, 5, 19, 37, size, size + 1):
        reduction = reducer.reduce(x, Context(grid=grid, protected=1), count)
        assert reduction.count == count
        assert reduction.mask.all()
        assert reduction.source_map.max() == count - 1
        assert torch.equal(reduction.apply(x)[:, 0], x[:, 0])
        if isinstance(reduction, Gather):
            assert (reduction.index.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("algorithm", ["kmedoids", "spectral", "pooling"])
def test_means_keep_the_mass_of_all_tokens(algorithm) -> None:
    x = tokens().flatten(1, 2)
    mass = torch.rand(2, 54)
    config = CenterCLIPConfig(algorithm=algorithm, aggregation="mean", segments=3)
    reduction = CenterCLIP(config).reduce(x, Context(grid=(6, 3, 3), mass=mass), 27)
    assert isinstance(reduction, Assign)
    torch.testing.assert_close(reduction.mass.sum(1), mass.sum(1))
    total = (reduction.apply(x) * reduction.mass[..., None]).sum(1)
    torch.testing.assert_close(total, (x * mass[..., None]).sum(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_equal_tokens_and_halves_give_numbers_and_samples_stand_alone(algorithm, dtype) -> None:
    reducer = CenterCLIP(CenterCLIPConfig(algorithm=algorithm)).eval()
    context = Context(grid=(6, 3, 3))
    x = tokens(3).flatten(1, 2).to(dtype)
    together = reducer.reduce(x, context, 11).apply(x)
    assert together.dtype == dtype
    for sample in range(3):
        alone = x[sample : sample + 1]
        assert torch.equal(reducer.reduce(alone, context, 11).apply(alone)[0], together[sample])
    for same in (torch.zeros_like(x), torch.ones_like(x)):
        assert reducer.reduce(same, context, 11).apply(same).isfinite().all()


def test_medoids_lead_their_clusters_and_all_tokens_are_the_identity() -> None:
    x = tokens()
    found = cluster_tokens(x, 3, 7, CenterCLIPConfig())
    assert (found.ids.diff(dim=-1) > 0).all()
    assert torch.equal(found.assign.gather(2, found.ids), torch.arange(7).expand(2, 3, -1))
    whole = cluster_tokens(x, 3, 18, CenterCLIPConfig())
    assert torch.equal(whole.tokens, x.unflatten(1, (3, 2)).flatten(2, 3))


def test_the_reducer_and_the_function_agree() -> None:
    x = tokens()
    found = cluster_tokens(x, 3, 7, CenterCLIPConfig())
    flat = x.flatten(1, 2)
    reduction = CenterCLIP(CenterCLIPConfig(segments=3)).reduce(flat, Context(grid=(6, 3, 3)), 21)
    assert torch.equal(reduction.apply(flat), found.tokens.flatten(1, 2))


def test_a_moving_object_stays_in_all_its_places_and_copies_go() -> None:
    background = tokens(1, 1, 9, 16, seed=4).expand(-1, 4, -1, -1).clone()
    thing = 3 * torch.nn.functional.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(5)))
    for frame in range(4):
        background[0, frame, 2 * frame] = thing[frame]
    found = cluster_tokens(background, 1, 13, CenterCLIPConfig())
    kept = set(found.ids.flatten().tolist())
    assert {frame * 9 + 2 * frame for frame in range(4)} <= kept
    rows = found.tokens[0, 0]
    assert torch.pdist(rows).min() > 0.1


def test_pooling_is_the_mean_over_time() -> None:
    x = tokens()
    config = CenterCLIPConfig(algorithm="pooling")
    pooled = x.unflatten(1, (2, 3)).mean(2)
    torch.testing.assert_close(cluster_tokens(x, 2, 5, config).tokens, pooled)
    flat = x.flatten(1, 2)
    reduction = CenterCLIP(config).reduce(flat, Context(grid=(6, 3, 3)), 18)
    torch.testing.assert_close(reduction.apply(flat), pooled.flatten(1, 2))


def test_sparse_tokens_are_evenly_spaced_and_random_in_training() -> None:
    assert sparse_positions(4, 12).tolist() == [1, 4, 7, 10]
    assert sparse_positions(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert sparse_positions(4, 10).tolist() == [1, 3, 6, 8]
    torch.manual_seed(0)
    drawn = torch.stack([sparse_positions(4, 12, random=True) for _ in range(50)])
    assert torch.equal(drawn // 3, torch.arange(4).expand(50, -1))
    assert drawn.unique().tolist() == list(range(12))


@pytest.mark.parametrize(
    "options", [{"graph": "knn"}, {"window": True}, {"graph": "knn", "neighbours": 4}, {"signs": False}]
)
def test_every_option_of_the_graph_gives_medoids(options) -> None:
    config = CenterCLIPConfig(algorithm="spectral", **options)
    found = cluster_tokens(tokens(), 2, 6, config)
    assert torch.equal(found.assign.gather(2, found.ids), torch.arange(6).expand(2, 2, -1))


def test_lengths_do_not_matter_once_normalised() -> None:
    x, twice = tokens(), tokens() * 2.0 ** torch.arange(9)[:, None]
    plain = [cluster_tokens(given, 2, 6, CenterCLIPConfig()).ids for given in (x, twice)]
    assert not torch.equal(*plain)
    options = CenterCLIPConfig(normalise=True)
    spread = [cluster_tokens(given, 2, 1, options).ids for given in (x, twice)]
    assert torch.equal(*spread)


def test_shares_of_segments_add_up_and_none_is_empty() -> None:
    for frames in (1, 4, 5, 7):
        for count in range(1, frames * 3):
            found = plan(frames, 3, count, 4)
            assert sum(share for _, _, share in found) == count
            assert found[0][0] == 0
            assert found[-1][1] == frames * 3
            assert all(0 < share <= end - start for start, end, share in found)
    assert plan(12, 49, 196, 4) == [(i * 147, (i + 1) * 147, 49) for i in range(4)]


def test_what_does_not_divide_or_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="divide"):
        cluster_tokens(tokens(), 4, 3, CenterCLIPConfig())
    with pytest.raises(ConfigError, match="19 tokens"):
        cluster_tokens(tokens(), 3, 19, CenterCLIPConfig())
    with pytest.raises(ConfigError, match="segment"):
        CenterCLIPConfig(segments=0)


def test_it_works_once_halfway() -> None:
    assert CenterCLIP().layers(12) == (5,)
    x = tokens(1, 12, 4).flatten(1, 2)
    assert CenterCLIP().reduce(x, Context(grid=(12, 2, 2))).count == 16
