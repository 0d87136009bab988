"""Grouping tokens: the facts of each method, and that pieces give what the whole gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from smalti.nn import clustering
from smalti.nn.clustering import (
    best_pairs,
    chunked,
    density_peaks,
    farthest_points,
    k_means,
    means,
    nearest,
    spectral_features,
    squared_distances,
    take,
)


def planted(sizes: tuple[int, ...] = (8, 5, 11), spread: float = 0.1) -> tuple[Tensor, Tensor]:
    truth = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes))]
    return 10 * torch.eye(len(sizes), 6)[truth] + spread * torch.randn(2, len(truth), 6), truth


def parts(group: Tensor) -> Tensor:
    return group[..., :, None] == group[..., None, :]


@pytest.mark.parametrize(("rows", "columns"), [(10, 3), (10, 100), (1, 1), (7, 0)])
def test_chunks_cover_all_rows_once(rows, columns, monkeypatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", 12)
    found = chunked(rows, columns)
    assert [place for part in found for place in range(rows)[part]] == list(range(rows))
    assert all((part.stop - part.start) * columns <= max(12, columns) for part in found)


def test_distances() -> None:
    a, b = torch.randn(2, 9, 5), torch.randn(2, 4, 5)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square(), atol=1e-4, rtol=1e-4)
    far = a + 1000
    assert squared_distances(far, far).min() >= 0


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("chunk", [2**22, 7])
def test_nearest(cosine, chunk, monkeypatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", chunk)
    tokens, centres = torch.randn(2, 30, 4), torch.randn(2, 5, 4)
    if cosine:
        truth = torch.cosine_similarity(tokens[:, :, None], centres[:, None], dim=-1).argmax(-1)
    else:
        truth = torch.cdist(tokens, centres).argmin(-1)
    assert torch.equal(nearest(tokens, centres, cosine=cosine), truth)
    assert not nearest(tokens, centres[:, :1].expand(-1, 3, -1).contiguous()).any()  # of equals the first


@pytest.mark.parametrize("chunk", [2**22, 11, 40])
def test_best_pairs(chunk, monkeypatch) -> None:
    a, b = torch.randn(2, 13, 4), torch.randn(2, 6, 4)
    truth = (a @ b.mT).max(-1)
    monkeypatch.setattr(clustering, "CHUNK", chunk)
    score, index = best_pairs(a, b)
    torch.testing.assert_close(score, truth.values)
    assert torch.equal(index, truth.indices)


def test_means_by_weight() -> None:
    tokens = torch.tensor([[[1.0], [3], [10], [20]]])
    group, weight = torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1.0, 3, 1, 1]])
    mean, total = means(tokens, group, 3, weight)
    assert mean.flatten().tolist() == [2.5, 0.0, 15.0]
    assert total.tolist() == [[4.0, 0.0, 2.0]]


def test_farthest_points_are_chosen_one_by_one() -> None:
    points = torch.tensor([[[0.0], [1], [2], [10], [6]]])
    assert farthest_points(points, 4).tolist() == [[3, 0, 4, 2]]
    assert farthest_points(points, 3, torch.tensor([1])).tolist() == [[1, 3, 4]]
    assert farthest_points(torch.ones(2, 6, 3), 6).sort().values.tolist() == [list(range(6))] * 2


@pytest.mark.parametrize("cosine", [False, True])
def test_k_means_finds_planted_clusters(cosine) -> None:
    tokens, truth = planted()
    group = k_means(tokens, farthest_points(tokens, 3), cosine=cosine)
    assert torch.equal(parts(group), parts(truth).expand(2, -1, -1))


def test_k_means_never_gets_worse_and_keeps_its_starts() -> None:
    tokens = torch.randn(2, 60, 3)
    start = farthest_points(tokens, 7)

    def cost(iterations: int) -> Tensor:
        group = k_means(tokens, start, iterations=iterations)
        assert torch.equal(group.gather(1, start), torch.arange(7).expand(2, -1))
        centres, _ = means(tokens, group, 7, torch.ones(2, 60))
        return (tokens - take(centres, group)).square().sum()

    costs = [cost(iterations) for iterations in (0, 1, 2, 5, 20)]
    assert costs[-1] < costs[0]
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(costs))


def test_k_means_weighs_tokens() -> None:
    tokens = torch.tensor([[[0.0], [4.0], [10.0], [6.5]]])
    start = torch.tensor([[0, 2]])
    assert k_means(tokens, start).tolist() == [[0, 0, 1, 1]]
    heavy = torch.tensor([[0.01, 100.0, 100.0, 0.01]])
    assert k_means(tokens, start, heavy).tolist() == [[0, 0, 1, 0]]  # 6.5 is nearer to 4 than to 10


def test_density_peaks_find_planted_clusters_and_their_densest() -> None:
    tokens, truth = planted((12, 15, 13), spread=1.0)
    tokens[:, 0] = 10 * torch.eye(3, 6)[truth[0]]  # in the middle of its cluster
    centres, group = density_peaks(tokens, 3)
    assert torch.equal(parts(group), parts(truth).expand(2, -1, -1))
    assert torch.equal(group.gather(1, centres), torch.arange(3).expand(2, -1))
    distance = torch.cdist(tokens, tokens) / 6**0.5
    density = (-distance.square().topk(5, -1, largest=False).values.mean(-1)).exp()
    for sample in range(2):
        for place, centre in enumerate(centres[sample]):
            assert density[sample, centre] == density[sample, group[sample] == place].max()


@pytest.mark.parametrize("masked", [False, True])
def test_density_peaks_in_pieces(masked, monkeypatch) -> None:
    tokens = torch.randn(2, 70, 5)
    mask = torch.rand(2, 70) > 0.3 if masked else None
    whole = density_peaks(tokens, 9, mask=mask)
    monkeypatch.setattr(clustering, "CHUNK", 1000)
    pieces = density_peaks(tokens, 9, mask=mask)
    assert torch.equal(whole[0], pieces[0])
    there = slice(None) if mask is None else mask
    assert torch.equal(whole[1][there], pieces[1][there])
    if mask is not None:
        assert mask.gather(1, whole[0]).all()


def test_density_peaks_do_not_see_masked_tokens() -> None:
    tokens = torch.randn(1, 40, 5)
    mask = torch.arange(40)[None] < 25
    among, _ = density_peaks(tokens, 6, mask=mask)
    alone, _ = density_peaks(tokens[:, :25], 6)
    assert torch.equal(among, alone)


def test_spectral_features_are_equal_within_parts_of_a_graph() -> None:
    truth = torch.tensor([0, 1, 0, 2, 1, 2, 0])
    graph = (truth[:, None] == truth).float()[None]
    rows = spectral_features(graph, 3)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1, 7))
    cosine = (rows @ rows.mT)[0]
    torch.testing.assert_close(cosine, graph[0], atol=1e-5, rtol=0)
    assert ((rows * rows.abs()).isfinite()).all()
    assert spectral_features(torch.zeros(1, 4, 4), 2).isfinite().all()
