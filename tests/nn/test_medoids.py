"""k-medoids and the graph of spectral clustering."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from smalti.nn.clustering import take
from smalti.nn.medoids import assign, clustering_cost, k_medoids, kkz_start, negative_distances
from smalti.nn.peaks import density_peaks
from smalti.nn.shift import shift_time
from smalti.nn.spectral import heat_graph, neighbourhood, spectral_coordinates


def cloud(seed: int, batch: int = 3, size: int = 40, dim: int = 6) -> torch.Tensor:
    return torch.randn(batch, size, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("chunk", [None, 2])
def test_medoids_rise_and_lead_their_own_groups(cosine, chunk) -> None:
    medoids, group = k_medoids(cloud(0), 7, cosine=cosine, chunk=chunk)
    assert (medoids.diff(dim=-1) > 0).all()
    assert torch.equal(group.gather(1, medoids), torch.arange(7).expand(3, -1))


def test_as_many_medoids_as_tokens_are_all_of_them() -> None:
    medoids, group = k_medoids(cloud(1), 40)
    assert torch.equal(medoids, torch.arange(40).expand(3, -1))
    assert torch.equal(group, medoids)


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_never_grows_and_ends_below_kkz_and_random_medoids(seed) -> None:
    x = cloud(seed)
    costs = [clustering_cost(x, kkz_start(x, negative_distances(x), 6))]
    costs += [clustering_cost(x, k_medoids(x, 6, iterations=steps)[0]) for steps in range(1, 8)]
    assert all((later <= before + 1e-4).all() for before, later in pairwise(costs))
    assert (costs[-1] < costs[0]).all()
    random = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:6]] * 3)
    assert (costs[-1] < clustering_cost(x, random)).all()


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 9, 4), torch.full((2, 9, 4), 1e9), cloud(2, batch=2, size=9) * 1e8]
)
def test_equal_and_huge_tokens_still_give_different_medoids(x) -> None:
    for cosine in (False, True):
        medoids, group = k_medoids(x, 5, cosine=cosine)
        assert (medoids.diff(dim=-1) > 0).all()
        assert torch.equal(group.gather(1, medoids), torch.arange(5).expand(2, -1))


def test_one_copy_of_each_duplicate_stays_until_all_kinds_are_there() -> None:
    kinds = cloud(3, batch=1, size=6, dim=8)
    x = kinds.repeat_interleave(4, 1)
    for count in range(1, 7):
        medoids, _ = k_medoids(x, count)
        assert len(set((medoids[0] // 4).tolist())) == count


def test_samples_stand_for_themselves_unless_they_share_a_chunk() -> None:
    x = cloud(4, batch=5)
    together, _ = k_medoids(x, 8)
    alone = torch.cat([k_medoids(sample[None], 8)[0] for sample in x])
    assert torch.equal(together, alone)
    assert torch.equal(k_medoids(x, 8, chunk=1)[0], alone)


def test_distances_are_negative_and_least_to_oneself() -> None:
    distance = negative_distances(cloud(5), power=1.0)
    assert (distance <= -1).all()
    assert torch.equal(distance.argmin(-1), torch.arange(40).expand(3, -1))
    by_hand = (cloud(5)[:, :, None] - cloud(5)[:, None]).abs().sum(-1)
    shifted = by_hand - by_hand.amax((1, 2), keepdim=True) - 1 - torch.eye(40)
    torch.testing.assert_close(distance, shifted, atol=1e-4, rtol=1e-4)


def test_assignment_is_to_the_nearest() -> None:
    x = cloud(6)
    medoids, group = k_medoids(x, 5)
    assert torch.equal(assign(negative_distances(x), medoids), group)
    assert torch.equal(torch.cdist(x, take(x, medoids)).argmin(-1), group)


def rings(points: int = 40) -> torch.Tensor:
    angle = torch.arange(points) * (2 * math.pi / points)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    return torch.cat([circle, 4 * circle])[None]


def test_two_rings_are_split_where_k_medoids_fails() -> None:
    x, truth = rings(), torch.arange(80)[None] // 40
    coordinates = spectral_coordinates(heat_graph(x, sigma=0.5), 2)
    _, group = k_medoids(coordinates, 2)
    assert torch.equal(group, truth) or torch.equal(group, 1 - truth)
    _, plain = k_medoids(x, 2)
    assert 0.3 < (plain == truth).float().mean() < 0.7


def test_signs_do_not_hang_on_the_order_of_a_run() -> None:
    graph = heat_graph(cloud(7, size=12))
    first, again = (spectral_coordinates(graph, 4) for _ in range(2))
    assert torch.equal(first, again)
    vectors = spectral_coordinates(graph, 12)
    plain = spectral_coordinates(graph, 12, signs=False)
    torch.testing.assert_close(vectors.abs(), plain.abs())
    assert not torch.equal(vectors, plain)


def test_edges_to_neighbours_are_symmetric_and_few() -> None:
    x = cloud(8)
    graph = heat_graph(x, neighbours=5)
    torch.testing.assert_close(graph, graph.mT)
    edges = (graph > 0).sum(-1)
    assert edges.min() >= 5
    assert edges.float().mean() < 10
    assert torch.allclose(graph.diagonal(dim1=1, dim2=2), torch.ones(3, 40), atol=1e-5)


def test_windows_of_space_and_time() -> None:
    near = neighbourhood((3, 4, 5), space=3, time=1)
    assert torch.equal(near, near.T)
    assert near.sum(1).max() == 9
    assert near.sum(1).min() == 4
    assert neighbourhood((3, 1, 1), space=1, time=3).int().tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_peaks_of_density_in_pieces_and_whole_agree_on_clear_clusters(monkeypatch) -> None:
    x = (
        cloud(9, batch=2, size=4)[:, :, None] * 5 + 0.3 * cloud(10, batch=48, size=1).view(2, 4, 6, 6)
    ).flatten(1, 2)
    noise = torch.rand(1, 24, generator=torch.Generator().manual_seed(0)).expand(2, -1) * 1e-3
    centres, group = density_peaks(x, 4, 3, noise)
    monkeypatch.setattr("smalti.nn.peaks.LARGEST", 8)
    pieces, same = density_peaks(x, 4, 3, noise)
    assert torch.equal(centres, pieces)
    assert torch.equal(group, same)


def test_shifts_go_one_frame_each_way() -> None:
    x = torch.arange(1.0, 4)[None, :, None, None].expand(1, 3, 2, 8)
    shifted = shift_time(x)[0, :, 0]
    assert shifted[:, 0].tolist() == [2, 3, 0]
    assert shifted[:, 1].tolist() == [0, 1, 2]
    assert shifted[:, 2].tolist() == [1, 2, 3]
