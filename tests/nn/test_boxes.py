"""Boxes against torchvision, and by hand."""

import pytest
import torch

from smalti.nn import boxes


def some(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(count, 2, generator=generator) * 80 - 20
    return torch.cat([first, first + 1 + torch.rand(count, 2, generator=generator) * 90], -1)


@pytest.mark.parametrize("scale", [1.0, 1 / 4, 1 / 16])
def test_roi_align_is_torchvisions(scale):
    ops = pytest.importorskip("torchvision.ops")
    maps = torch.randn(2, 3, 9, 12)
    places = torch.stack([some(6), some(6, 1)])
    theirs = ops.roi_align(maps, list(places), 7, scale, 2, aligned=True).view(2, 6, 3, 7, 7)
    torch.testing.assert_close(boxes.roi_align(maps, places, scale), theirs, atol=1e-4, rtol=1e-4)


def test_levels_are_torchvisions():
    ops = pytest.importorskip("torchvision.ops")
    sizes = torch.tensor([10.0, 100, 111, 113, 223, 225, 447, 449, 900])
    places = torch.cat([torch.zeros(9, 2), sizes[:, None].repeat(1, 2)], -1)[None]
    levels = [torch.full((1, 1, 1024 // s, 1024 // s), float(s)) for s in (4, 8, 16, 32)]
    pooler = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(i): level for i, level in enumerate(levels)}
    theirs = pooler(named, list(places), [(1024, 1024)]).mean((1, 2, 3))
    ours = boxes.pyramid_align(levels, places, [1 / 4, 1 / 8, 1 / 16, 1 / 32]).mean((2, 3, 4))[0]
    torch.testing.assert_close(ours, theirs)


def test_generalised_iou_is_torchvisions():
    ops = pytest.importorskip("torchvision.ops")
    a, b = some(5), some(7, 1)
    torch.testing.assert_close(boxes.generalised_iou(a, b), ops.generalized_box_iou(a, b))


def test_boxes_grow_on_both_sides_within_the_picture():
    found = boxes.extended(
        torch.tensor([[[10.0, 10, 19, 29], [0, 0, 99, 49]]]), (0.4, 0.2), torch.tensor([[100.0, 50]])
    )
    assert found[0].tolist() == [[8, 8, 21, 31], [0, 0, 99, 49]]


def test_no_change_keeps_a_box():
    places = some(4)
    torch.testing.assert_close(boxes.shifted(places, torch.zeros(4, 4)), places)
    moved = boxes.shifted(torch.tensor([0.0, 0, 10, 20]), torch.tensor([2.0, 0, 0, 0]))
    torch.testing.assert_close(moved, torch.tensor([10.0, 0, 20, 20]))
