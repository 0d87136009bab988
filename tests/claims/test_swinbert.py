"""The claim of SwinBERT: its measures, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalti.claims.base import reproduce
from smalti.claims.swinbert import alike


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("swinbert", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 5
    assert (tmp_path / "swinbert.png").read_bytes().startswith(b"\x89PNG")


def test_texts_are_alike_in_the_places_of_equal_words() -> None:
    assert alike("a red square rests", "a red square rests") == 1
    assert alike("a red square", "a red circle rests") == pytest.approx(2 / 4)
    assert alike("", "a red square") == 0
