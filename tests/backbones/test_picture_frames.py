"""Frames of clips, their features put together, positions of another size, and what is refused."""

from __future__ import annotations

import pytest
import torch

from smalti.backbones.base import Features
from smalti.backbones.picture_frames import check_source, frames_of, over_time, resample_positions
from smalti.errors import MediaError


def test_features_of_frames_become_those_of_clips() -> None:
    clip = torch.rand(2, 3, 4, 1, 2)
    frames = frames_of(clip)
    assert torch.equal(frames[5], clip[1, :, 1])
    tokens = torch.arange(8.0)[:, None, None].expand(8, 3, 1)
    whole = over_time(Features(tokens, tokens[:, 0], (frames[:, :, None],), 1, (1, 1, 2)), 4)
    assert whole.tokens[1, :, 0].tolist() == [4, 5, 6, 7, 4, 4, 5, 5, 6, 6, 7, 7]
    assert whole.pooled.tolist() == [[1.5], [5.5]]
    assert (whole.prefix, whole.grid) == (4, (4, 1, 2))
    assert torch.equal(whole.pyramid[0], clip)


def test_positions_of_another_size() -> None:
    table = torch.randn(1, 12, 5)
    assert resample_positions(table, (3, 4), (3, 4)) is table
    flat = resample_positions(table.mean(1, keepdim=True).expand(-1, 12, -1), (3, 4), (5, 2))
    torch.testing.assert_close(flat, table.mean(1, keepdim=True).expand(-1, 10, -1))


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (torch.rand(1, 4, 1, 8, 8), "3, frames"),
        (torch.rand(3, 1, 8, 8), "3, frames"),
        (torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), "floats"),
        (torch.rand(1, 3, 0, 8, 8), "empty"),
        (torch.full((1, 3, 1, 2, 2), torch.nan), r"NaN at .* \[0, 0, 0, 0, 0\]"),
    ],
)
def test_pixels_that_mean_nothing_are_refused(pixels, says) -> None:
    with pytest.raises(MediaError, match=says):
        check_source(pixels)
