"""The claim of VIOLET: its visual tokens and hidden cells, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.clips_of_worlds import clips
from smalti.claims.violet import CELL, GRID, WORLD, codes, hidden_things


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("violet", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 4
    assert found["statements"]["nothing leaks from hidden pixels"]
    assert (tmp_path / "violet.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_changes_its_own_visual_token_alone() -> None:
    pixels = torch.full((1, 3, 2, 32, 32), 0.5)
    changed = pixels.clone()
    changed[:, 0, 1, CELL : 2 * CELL, :CELL] = 1.0
    differs = (codes(pixels) != codes(changed)).nonzero().tolist()
    assert differs == [[0, 1, 1, 0]]
    assert codes(pixels).shape == (1, 2, GRID, GRID)


def test_hidden_things_lie_in_the_second_frame() -> None:
    shown = clips(WORLD, "train", 4)
    second, everywhere = hidden_things(shown)
    assert second[:, 1].any()
    assert not second[:, [0, 2, 3]].any()
    assert (everywhere == everywhere[:, :1]).all()
    assert torch.equal(everywhere[:, 1], second[:, 1])
