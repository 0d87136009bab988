"""The claim of EVAD runs; boxes and kept tokens are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.evad import AREA, KEYFRAME, KTP, OPEN, Detector, overlap


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("evad", tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == "evad"
    assert found["rows"]
    assert found["statements"]
    assert (tmp_path / "evad.png").read_bytes().startswith(b"\x89PNG")


def test_overlap_of_boxes() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert overlap(box, box).item() == 1
    assert overlap(box, box + 1).item() == pytest.approx(1 / 7)
    assert overlap(box, box + 5).item() == 0


def test_the_keyframe_stays_whole_only_where_it_is_kept() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 16, 24, 24)
    left = {method: (Detector(method).encode(pixels)[1] // AREA == KEYFRAME).sum(1) for method in (KTP, OPEN)}
    assert (left[KTP] == AREA).all()
    assert (left[OPEN] < AREA).all()


def test_as_many_tokens_stay_either_way() -> None:
    pixels = torch.rand(1, 3, 16, 24, 24)
    assert {Detector(method).encode(pixels)[0].shape[1] for method in (KTP, OPEN)} == {45}
