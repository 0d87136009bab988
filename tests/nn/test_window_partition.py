"""Windows: cut and joined."""

import pytest
import torch

from smalti.nn.window_partition import join, partition


@pytest.mark.parametrize("size", [(6, 9), (7, 5), (1, 1), (3, 10)])
def test_joining_undoes_cutting(size):
    maps = torch.randn(2, *size, 4)
    windows, padded = partition(maps, 3)
    assert windows.shape == (2 * (padded[0] // 3) * (padded[1] // 3), 3, 3, 4)
    torch.testing.assert_close(join(windows, padded, size), maps)


def test_windows_stand_in_raster_order_and_are_padded_by_zeros():
    maps = torch.arange(1.0, 13).view(1, 3, 4, 1)
    windows, padded = partition(maps, 2)
    assert padded == (4, 4)
    assert windows[1].flatten().tolist() == [3, 4, 7, 8]
    assert windows[2].flatten().tolist() == [9, 10, 0, 0]
