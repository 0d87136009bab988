"""The claim of SFA-ViViT: its labels, what learns, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.backbones.vivit_adapter import ViViTAdapter
from smalti.backbones.vivit_adapter_training import second_stage
from smalti.claims.base import reproduce
from smalti.claims.clips_of_worlds import clips
from smalti.claims.vivit_adapter import COLOURS, SMALL, WORLD, accuracy, fit, labels
from smalti.media.worlds import DIRECTIONS


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("vivit-adapter", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 4
    assert found["statements"][
        "the second stage starts as the same function, and its spatial part stays bit for bit"
    ]
    assert (tmp_path / "vivit-adapter.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_colour_and_direction() -> None:
    shown = clips(WORLD, "train", 3)
    for scene, (colour, direction) in zip(shown.scenes, labels(shown).tolist(), strict=True):
        assert COLOURS[colour] == scene.things[0].colour
        assert list(DIRECTIONS)[direction] == scene.direction


def test_fitting_teaches_what_may_learn() -> None:
    shown = clips(WORLD, "train", 4)
    model = second_stage(ViViTAdapter(SMALL), 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, shown, 2, 0)
    after = model.state_dict()
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert "heads" in changed
    assert "spatial" not in changed
    assert 0 <= accuracy(model, shown) <= 1
