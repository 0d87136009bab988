"""The claim of UniFormerV2: its measures, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

from smalti.claims.base import reproduce
from smalti.claims.clips_of_worlds import clips
from smalti.claims.uniformerv2 import SMALL, WORLD, reading_cost, shaken


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("uniformerv2", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 5
    assert (tmp_path / "uniformerv2.png").read_bytes().startswith(b"\x89PNG")


def test_order_matters_only_where_places_are_known() -> None:
    shown = clips(WORLD, "test", 4)
    assert shaken(SMALL, shown, places=False) < 1e-5 < shaken(SMALL, shown, places=True)


def test_reading_costs_in_proportion_to_frames() -> None:
    four, eight, sixteen = (reading_cost(frames) for frames in (4, 8, 16))
    assert sixteen - eight == 2 * (eight - four)
