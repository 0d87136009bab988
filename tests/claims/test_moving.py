"""Rendered clips: shapes lie where they should and have their colour."""

from __future__ import annotations

import pytest
import torch

from smalti.claims.moving import SHAPES, backgrounds, clutter, paint, straight


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_a_shape_moves_with_its_centre(shape: int) -> None:
    centre = straight(torch.tensor([[8.0, 10.0]]), torch.tensor([[3.0, 2.0]]), 4)
    colour = torch.tensor([[1.0, 0.5, 0.25]])
    clip = paint(torch.zeros(1, 3, 4, 32, 32), torch.tensor([shape]), colour, centre, torch.tensor([5.0]))
    for frame, (x, y) in enumerate(centre[0].long().tolist()):
        torch.testing.assert_close(clip[0, :, frame, y, x], colour[0])
    torch.testing.assert_close(clip[:, :, 0, :-2, :-3], clip[:, :, 1, 2:, 3:])


def test_a_circle_covers_its_area() -> None:
    middle, radius = torch.full((1, 1, 2), 16.0), torch.tensor([10.0])
    clip = paint(torch.zeros(1, 3, 1, 32, 32), torch.tensor([0]), torch.ones(1, 3), middle, radius)
    assert clip[0, 0].sum().item() == pytest.approx(314.16, rel=0.02)


def test_backgrounds_are_cuts_of_the_pictures() -> None:
    pictures = clutter(2, 0)
    found = backgrounds(pictures, 4, 24, torch.Generator().manual_seed(0))
    assert found.shape == (4, 3, 24, 24)
    assert found.min() >= 0.2
    assert found.max() <= 0.7
