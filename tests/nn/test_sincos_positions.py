from __future__ import annotations

import math

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.sincos_positions import clip_positions, frame_positions, line_positions


def test_a_line_has_all_sines_then_all_cosines() -> None:
    row = line_positions(torch.tensor([3]), 4)[0]
    expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    torch.testing.assert_close(row, torch.tensor(expected))


def test_a_frame_has_its_column_first() -> None:
    places = frame_positions(2, 3, 8)
    column, row = line_positions(torch.tensor([2]), 4), line_positions(torch.tensor([1]), 4)
    torch.testing.assert_close(places[5:6], torch.cat([column, row], 1))


def test_a_clip_adds_the_time() -> None:
    places = clip_positions(3, 2, 2, 8)
    time = line_positions(torch.tensor([2]), 8)
    torch.testing.assert_close(places[8:], frame_positions(2, 2, 8) + time)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        frame_positions(2, 2, 6)
