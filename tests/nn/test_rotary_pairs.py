from __future__ import annotations

import torch

from smalti.nn.rotary_pairs import frame_angles, line_angles, turn_pairs


def test_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 9, 8)
    angles = line_angles(9, 8, 10000.0)
    products = turn_pairs(q, angles) @ turn_pairs(k, angles).mT
    for distance in range(-3, 4):
        along = products[0, 0].diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert (products[0, 0, 0, 1:] - products[0, 0, 0, 0]).abs().min() > 1e-6


def test_neighbouring_channels_turn_together() -> None:
    x = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 4)
    turned = turn_pairs(x, torch.tensor([[torch.pi / 2, 0.0]]))
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.0, 1.0, 1.0, 0.0]))


def test_heads_may_have_angles_of_their_own() -> None:
    x, angles = torch.randn(2, 3, 5, 4), torch.randn(3, 5, 2)
    whole = turn_pairs(x, angles)
    torch.testing.assert_close(whole[:, 1:2], turn_pairs(x[:, 1:2], angles[1]))


def test_a_frame_counts_columns_then_rows_in_either_order() -> None:
    halves = frame_angles(2, 3, 8, 100.0, "halves")
    expected = torch.tensor([2.0, 2 * 100**-0.5, 1.0, 100**-0.5])  # column 2, row 1
    torch.testing.assert_close(halves[5], expected)
    turns = frame_angles(2, 3, 8, 100.0, "interleaved")
    torch.testing.assert_close(turns[5], expected[[0, 2, 1, 3]])
