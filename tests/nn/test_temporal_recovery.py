"""Coming back from few frames to all."""

from __future__ import annotations

import torch

from smalti.nn.temporal_recovery import TokenRecoveringAttention, interpolate_frames, sinusoid


def test_a_straight_line_comes_back_exactly_and_ends_are_held() -> None:
    index = torch.tensor([[1, 4, 8], [0, 5, 9]])
    kept = index[..., None, None].float().expand(-1, -1, 2, 3)
    found = interpolate_frames(kept, index, 10)
    time = torch.arange(10.0)
    torch.testing.assert_close(found[0, :, 0, 0], time.clamp(1, 8))
    torch.testing.assert_close(found[1, :, 1, 2], time)


def test_the_nearest_frame_is_the_earlier_of_two() -> None:
    index = torch.tensor([[1, 3, 8]])
    kept = index[..., None, None].float()
    found = interpolate_frames(kept, index, 10, "nearest")[0, :, 0, 0]
    assert found.tolist() == [1, 1, 1, 3, 3, 3, 8, 8, 8, 8]


def test_one_kept_frame_is_everywhere() -> None:
    kept = torch.randn(2, 1, 3, 4)
    assert torch.equal(interpolate_frames(kept, torch.tensor([[2], [0]]), 5), kept.expand(-1, 5, -1, -1))


def test_zero_queries_give_equal_frames_and_sines_do_not() -> None:
    torch.manual_seed(0)
    kept = torch.randn(2, 3, 5, 16)
    equal = TokenRecoveringAttention(7, 16, 4)(kept)
    assert equal.shape == (2, 7, 5, 16)
    torch.testing.assert_close(equal, equal[:, :1].expand_as(equal))
    told_apart = TokenRecoveringAttention(7, 16, 4, "sine")(kept)
    assert (told_apart - told_apart[:, :1]).abs().amax((0, 2, 3))[1:].min() > 1e-3


def test_joints_are_recovered_each_by_itself() -> None:
    torch.manual_seed(0)
    recovery = TokenRecoveringAttention(6, 16, 4, "sine")
    kept = torch.randn(1, 3, 4, 16)
    changed = kept.clone()
    changed[:, :, 2] += 1
    moved = (recovery(kept) - recovery(changed)).abs().amax((0, 1, 3))
    assert moved[2] > 1e-3
    assert moved[[0, 1, 3]].max() == 0


def test_sinusoids_tell_positions_apart() -> None:
    table = sinusoid(50, 9)
    assert table.shape == (50, 9)
    assert torch.pdist(table).min() > 0.1
