"""Windows: there and back, positions, shifts, merging; against torchvision's Swin where it is installed."""

import pytest
import torch

from smalti.nn.windows import (
    PatchMerging,
    WindowBlock,
    join,
    partition,
    relative_positions,
    shifted_pairs,
    surroundings,
)


@pytest.mark.parametrize(("size", "side"), [((5, 9), 4), ((3, 5, 9), (2, 4, 4)), ((7,), 3)])
def test_windows_come_back(size, side):
    maps = torch.randn(2, *size, 3)
    windows, padded = partition(maps, side)
    assert torch.equal(join(windows, padded, size), maps)


def test_windows_are_in_raster_order():
    maps = torch.arange(16.0).view(1, 4, 4, 1)
    windows, _ = partition(maps, 2)
    assert windows[1].flatten().tolist() == [2, 3, 6, 7]
    assert windows[2].flatten().tolist() == [8, 9, 12, 13]


def test_surroundings_lie_as_unfold_has_them():
    maps = torch.randn(2, 14, 14, 3)
    keys, seen = surroundings(maps, 7, 10)
    assert bool(seen.all())
    places = torch.nn.functional.unfold(maps.permute(0, 3, 1, 2), 10, stride=4).view(2, 3, 100, 4)
    assert torch.equal(keys.view(2, 4, 100, 3), places.permute(0, 3, 2, 1))
    keys, seen = surroundings(maps, 7, 14, beyond=True, size=(14, 12))
    assert keys.shape == (8, 196, 3)
    assert int(seen[0].sum()) == 11 * 11
    assert int(seen[1].sum()) == 11 * 8


def test_relative_positions_of_a_pair_depend_on_the_difference_alone():
    index = relative_positions((2, 3, 4))
    place = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))
    difference = (place[:, None] - place[None]).reshape(-1, 3)
    table = {}
    for number, key in zip(index.flatten().tolist(), map(tuple, difference.tolist()), strict=True):
        assert table.setdefault(key, number) == number
    assert sorted(table.values()) == list(range(3 * 5 * 7))


def test_shift_keeps_what_was_apart_apart():
    pairs = shifted_pairs((4, 4), (2, 2), (1, 1))
    assert pairs.shape == (4, 4, 4)
    assert bool(pairs[0].all())
    assert torch.equal(pairs[3], torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_is_torchvisions(shift):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    theirs = swin.ShiftedWindowAttention(8, [4, 4], [shift, shift], 2).eval()
    compare(theirs, WindowBlock(8, 2, 4, shift).eval(), torch.randn(2, 10, 13, 8))


def test_attention_in_three_axes_is_torchvisions():
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    theirs = video.ShiftedWindowAttention3d(8, [2, 4, 4], [1, 2, 2], 2).eval()
    ours = WindowBlock(8, 2, (2, 4, 4), (1, 2, 2), axes=3).eval()
    compare(theirs, ours, torch.randn(2, 5, 6, 9, 8))


def compare(theirs: torch.nn.Module, ours: WindowBlock, maps: torch.Tensor) -> None:
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("index")}
    state["bias.table"] = state.pop("relative_position_bias_table")
    ours.attn.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(ours.mix(maps), theirs(maps), atol=1e-5, rtol=1e-5)


def test_merging_takes_columns_of_a_pair_last():
    merge = PatchMerging(1)
    merge.norm = torch.nn.Identity()
    merge.reduction = torch.nn.Identity()
    maps = torch.arange(6.0).view(1, 2, 3, 1)
    assert merge(maps)[0, 0].tolist() == [[0, 3, 1, 4], [2, 5, 0, 0]]
