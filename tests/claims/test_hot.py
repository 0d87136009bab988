"""The claim of HoT runs; its motions and its measure are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.hot import mpjpe, official_share


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("hot", tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == "hot"
    assert found["rows"]
    assert found["statements"]
    assert (tmp_path / "hot.png").read_bytes().startswith(b"\x89PNG")


def test_error_is_in_millimetres() -> None:
    truth = torch.zeros(2, 3, 15, 3)
    assert mpjpe(truth + torch.tensor([0.003, 0.004, 0.0]), truth) == pytest.approx(5.0)


def test_a_third_of_the_frames_saves_two_fifths_at_the_official_sizes() -> None:
    assert 0.58 < official_share() < 0.62
