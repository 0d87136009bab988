from __future__ import annotations

import pytest
import torch

from smalti.tokenizers.tiling import cut_tiles, join_tiles


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 9, 16), (5, 17, 3)])
def test_tiles_make_up_the_source_again_with_gradients(size) -> None:
    pixels = torch.rand(2, 3, *size, requires_grad=True)
    tiles, source = cut_tiles(pixels, (2, 8, 8))
    counts = [-(-side // tile) for side, tile in zip(size, (2, 8, 8), strict=True)]
    assert tiles.shape == (2 * counts[0] * counts[1] * counts[2], 3, 2, 8, 8)
    joined = join_tiles(tiles, source)
    assert torch.equal(joined, pixels)
    joined.sum().backward()
    assert pixels.grad is not None


def test_tiles_are_in_order_and_not_clamped() -> None:
    pixels = torch.arange(2 * 3 * 16 * 24).view(1, 3, 2, 16, 24).float()
    tiles, source = cut_tiles(pixels, (1, 8, 8))
    assert torch.equal(tiles[7, :, 0], pixels[0, :, 1, :8, 8:16])
    assert join_tiles(tiles * 2, source).max() == 2 * pixels.max()
