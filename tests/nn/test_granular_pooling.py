"""Maxima over neighbours, pieces, segments and windows, against loops."""

from __future__ import annotations

import pytest
import torch

from smalti.nn.granular_pooling import local_max, piece_length, piece_max, segment_max, window_max


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_neighbours(kernel) -> None:
    x, reach = torch.randn(2, 7, 3) - 5, kernel // 2
    expected = torch.stack([x[:, max(i - reach, 0) : i + reach + 1].amax(1) for i in range(7)], 1)
    assert torch.equal(local_max(x, kernel), expected)
    maps = torch.randn(2, 5, 4, 3)
    pooled = torch.nn.functional.max_pool2d(maps.permute(0, 3, 1, 2), kernel, 1, reach)
    assert torch.equal(local_max(maps, kernel), pooled.permute(0, 2, 3, 1))


@pytest.mark.parametrize(("length", "pieces"), [(17, 3), (12, 4), (5, 9), (1, 1)])
def test_pieces_are_segments(length, pieces) -> None:
    x = torch.randn(2, length, 3) - 5
    index = (torch.arange(length) // piece_length(length, pieces)).expand(2, -1)
    assert torch.equal(piece_max(x, pieces), segment_max(x, index))


def test_segments_in_any_order() -> None:
    x, index = torch.randn(2, 9, 3) - 5, torch.randint(0, 4, (2, 9))
    pooled = segment_max(x, index)
    for row in range(2):
        for token in range(9):
            assert torch.equal(pooled[row, token], x[row, index[row] == index[row, token]].amax(0))


def test_windows_at_the_end_are_cut_short() -> None:
    maps = torch.randn(1, 5, 7, 2) - 5
    pooled = window_max(maps, 3)
    assert torch.equal(pooled[0, 4, 6], maps[0, 3:, 6:].amax((0, 1)))
    assert torch.equal(pooled[0, 1, 5], maps[0, :3, 3:6].amax((0, 1)))
