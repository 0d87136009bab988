"""Soft superpixels: layouts, locality, and the ways back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.superpixels import Layout, layout, neighbour_weights, soft_k_means


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_layout_has_exactly_the_cells_asked(data):
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    count = data.draw(st.integers(1, height * width))
    cells = layout(height, width, count)
    assert cells.cells == count
    assert max(cells.columns) - min(cells.columns) <= 1
    assert cells.bins().any(1).all()
    near = cells.near(0)
    assert near.any(0).all(), "a token belongs nowhere"
    assert near.any(1).all(), "a cell without tokens"


@pytest.mark.parametrize(
    ("size", "count", "columns"),
    [
        ((40, 40), 784, (28,) * 28),
        ((16, 12), 24, (4,) * 6),
        ((12, 24), 32, (8,) * 4),
        ((14, 14), 49, (7,) * 7),
    ],
)
def test_a_regular_grid_keeps_the_aspect(size, count, columns):
    assert layout(*size, count).columns == columns


def test_rows_differ_where_no_grid_fits():
    assert layout(14, 14, 97).columns.count(10) == 7  # a prime: ten rows of 9 or 10
    assert len(layout(14, 14, 97).columns) == 10


def test_impossible_layouts_are_refused():
    with pytest.raises(ConfigError, match="10 cells"):
        layout(3, 3, 10)
    with pytest.raises(ConfigError, match="do not fit"):
        Layout(2, 3, (4, 4))


def test_no_iterations_are_adaptive_average_pooling():
    maps = torch.randn(2, 5, 11, 7)
    shares = soft_k_means(
        maps.flatten(2).mT, Layout(11, 7, (3,) * 4), radius=1, temperature=1.0, iterations=0
    )
    pooled = F.adaptive_avg_pool2d(maps, (4, 3)).flatten(2).mT
    torch.testing.assert_close(shares @ maps.flatten(2).mT, pooled)


def test_as_many_cells_as_tokens_change_nothing():
    tokens, refined = torch.randn(2, 30, 8), torch.randn(2, 30, 8)
    shares = soft_k_means(tokens, layout(5, 6, 30), radius=2, temperature=200.0)
    torch.testing.assert_close(shares @ tokens, tokens)
    for norm in ("l1", "l2"):
        weights = neighbour_weights(tokens, tokens, temperature=200.0, neighbours=5, norm=norm)
        torch.testing.assert_close(weights @ refined, refined)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_tokens_reach_no_cell_beyond_the_radius(radius):
    cells = layout(12, 12, 36)
    shares = soft_k_means(torch.randn(1, 144, 4), cells, radius=radius, temperature=0.1)[0]
    row, column = torch.arange(36) // 6, torch.arange(36) % 6
    own_row, own_column = torch.arange(144) // 12 // 2, torch.arange(144) % 12 // 2
    away = torch.maximum((row[:, None] - own_row).abs(), (column[:, None] - own_column).abs())
    assert (shares[away > radius] == 0).all()
    assert (shares[away <= radius] > 0).all()


def test_moving_the_map_by_a_cell_moves_the_centres():
    wide, cells = torch.randn(1, 4, 44, 6), Layout(4, 40, (20,) * 2)

    def centres(part):
        tokens = part.flatten(1, 2)
        shares = soft_k_means(tokens, cells, radius=1, temperature=0.3, iterations=2)
        return (shares @ tokens).view(2, 20, 6)

    here, there = centres(wide[:, :, :40]), centres(wide[:, :, 2:42])
    torch.testing.assert_close(here[:, 7:15], there[:, 6:14])  # as far from the ends as two iterations see


def scene() -> torch.Tensor:
    """A map of 24×24 tokens: twelve regions of any shape, features of each with a little noise."""
    position = torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0))
    region = torch.cdist(position, 24 * torch.rand(12, 2)).argmin(-1)
    return (torch.randn(12, 16)[region] + 0.1 * torch.randn(576, 16))[None]


def test_iterations_bring_tokens_nearer_to_their_clusters():
    tokens, cells, spent = scene(), layout(24, 24, 36), []
    for iterations in (0, 1, 3, 5):
        shares = soft_k_means(tokens, cells, radius=2, temperature=1.0, iterations=iterations)
        distance = torch.cdist(shares @ tokens, tokens).square()
        belonging = (-distance).masked_fill(~cells.near(2), -torch.inf).softmax(1)
        spent.append((belonging * distance).sum().item())
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < 0.4 * spent[0]


def test_adaptive_clusters_restore_better_than_pooling():
    tokens, error = scene(), {}
    for iterations in (0, 5):
        shares = soft_k_means(tokens, layout(24, 24, 36), radius=2, temperature=1.0, iterations=iterations)
        centres = shares @ tokens
        restored = neighbour_weights(tokens, centres, temperature=1.0) @ centres
        error[iterations] = (restored - tokens).square().mean()
    assert error[5] < 0.4 * error[0]
    pooled = F.adaptive_avg_pool2d(tokens.mT.view(1, 16, 24, 24), 6)
    bilinear = F.interpolate(pooled, 24, mode="bilinear").flatten(2).mT
    assert error[5] < 0.4 * (bilinear - tokens).square().mean()


def test_no_scale_of_features_gives_nan_or_an_empty_cell():
    for scale in (0.0, 1e-4, 1e4):
        tokens = scale * torch.randn(1, 64, 8)
        shares = soft_k_means(tokens, layout(8, 8, 13), radius=2, temperature=1.0)
        torch.testing.assert_close(shares.sum(-1), torch.ones(1, 13))
        weights = neighbour_weights(tokens, shares @ tokens, temperature=1.0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 64))


def test_only_the_nearest_count_and_ties_stay():
    tokens, centres = torch.zeros(1, 1, 1), torch.tensor([1.0, -1.0, 2.0, 0.5])[None, :, None]
    weights = neighbour_weights(tokens, centres, temperature=1.0, neighbours=2)[0, 0]
    assert (weights > 0).tolist() == [True, True, False, True]  # 1 and -1 are equally near
    assert (neighbour_weights(tokens, centres, temperature=1.0, neighbours=-1) > 0).all()
    torch.testing.assert_close(weights[3] / weights[0], torch.tensor(0.75).exp())
    squares = neighbour_weights(tokens, centres, temperature=1.0, neighbours=2, norm="l2").square().sum()
    torch.testing.assert_close(squares, torch.tensor(1.0))


def test_a_heavy_token_pulls_its_centre():
    tokens, weight = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[3.0, 1.0]])
    shares = soft_k_means(tokens, layout(1, 2, 1), radius=0, temperature=1.0, weight=weight)
    torch.testing.assert_close(shares, torch.tensor([[[0.75, 0.25]]]))
