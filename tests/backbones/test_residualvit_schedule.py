"""Whole and leaning frames: intervals, forced frames, what is carried over, cuts."""

import pytest
import torch

from smalti.backbones.residualvit_schedule import cuts, key_frames, routes
from smalti.errors import ConfigError


def drawn(key):
    return ["".join("I" if whole else "P" for whole in row) for row in key.tolist()]


@pytest.mark.parametrize(("interval", "expected"), [(0, "IIIIIII"), (2, "IPPIPPI"), (9, "IPPPPPP")])
def test_every_whole_frame_is_followed_by_an_interval(interval, expected):
    key, since = key_frames(2, 7, interval)
    assert drawn(key) == [expected] * 2
    assert since.tolist() == [len(expected) - 1 - expected.rindex("I")] * 2


def test_a_forced_frame_begins_anew():
    forced = torch.zeros(2, 8, dtype=torch.bool)
    forced[1, 4] = True
    key, since = key_frames(2, 8, 2, forced)
    assert drawn(key) == ["IPPIPPIP", "IPPIIPPI"]
    assert since.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="2 clips of 7"):
        key_frames(2, 7, 2, forced)


def test_clips_can_be_cut_anywhere():
    whole, _ = key_frames(1, 11, 3)
    since, parts = None, []
    for size in (1, 4, 3, 2, 1):
        key, since = key_frames(1, size, 3, None, since)
        parts.append(key)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_frames_lean_on_the_last_whole_one_of_their_clip():
    key = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]], dtype=torch.bool)
    way = routes(key, carried=2)
    assert way.whole.tolist() == [1, 3, 4]
    assert way.leaning.tolist() == [0, 2, 5, 6, 7]
    assert way.source.tolist() == [[0, 2, 2, 3], [4, 4, 4, 4]]
    row = torch.cat([way.whole, way.leaning])
    assert row[way.back].tolist() == list(range(8))


def test_cuts_are_found_where_the_picture_jumps():
    clip = torch.full((2, 3, 6, 8, 8), 0.2) + 0.01 * torch.rand(2, 3, 6, 8, 8)
    clip[1, :, 4:] += 0.5
    assert cuts(clip, 0.15).nonzero().tolist() == [[1, 4]]
    assert cuts(clip[:, :, :1], 0.15).tolist() == [[False], [False]]
