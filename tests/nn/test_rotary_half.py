"""Rotary positions: relative, norm-preserving, on the first channels alone."""

from __future__ import annotations

import torch

from smalti.nn.rotary_half import rotate_half


def test_products_depend_on_the_distance_alone() -> None:
    q, k = (torch.randn(1, 1, 1, 8).expand(-1, -1, 9, -1) for _ in range(2))
    products = rotate_half(q)[0, 0] @ rotate_half(k)[0, 0].mT
    for step in (-3, 0, 5):
        diagonal = products.diagonal(step)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert (products[0] - products[0, 0]).abs()[1:].min() > 1e-4


def test_the_first_channels_turn_by_hand() -> None:
    x = torch.randn(1, 1, 4, 8)
    turned = rotate_half(x, 0.25)
    assert torch.equal(turned[..., 2:], x[..., 2:])
    angle = torch.arange(4.0)
    torch.testing.assert_close(turned[0, 0, :, 0], x[0, 0, :, 0] * angle.cos() - x[0, 0, :, 1] * angle.sin())
