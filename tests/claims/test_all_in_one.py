"""The claim of All in One: who hears of whom, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

from smalti.claims.all_in_one import FRAMES, ROLLED, STILL, WORLD, asked, network, reach
from smalti.claims.base import reproduce
from smalti.claims.clips_of_worlds import clips
from smalti.media.worlds import VOCABULARY


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("all-in-one", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 4
    assert (tmp_path / "all-in-one.png").read_bytes().startswith(b"\x89PNG")


def test_rolling_reaches_both_neighbours() -> None:
    shown = clips(WORLD, "test", 1)
    assert sum(reach(ROLLED, shown)) == 3
    assert reach(STILL, shown) == [True, *[False] * (FRAMES - 1)]


def test_questions_name_the_thing_and_no_model_has_times() -> None:
    shown = clips(WORLD, "test", 2)
    thing = shown.scenes[1].things[0]
    assert VOCABULARY.decode(asked(shown)[1]) == f"where does the {thing.colour} {thing.kind} move ?"
    for way in (ROLLED, STILL):
        times = network(way).pictures.times
        assert not times.requires_grad
        assert not times.any()
