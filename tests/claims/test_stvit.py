from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.stvit import GRID, marks, semantic_vit


def test_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = reproduce("stvit", tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == "stvit"
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_every_patch_is_marked_with_and_without_recovery() -> None:
    pictures = torch.zeros(2, 3, 48, 48)
    for recovered in (True, False):
        model = semantic_vit(classes=1, recover=recovered).eval()
        assert marks(model, pictures, recovered).shape == (2, GRID**2)
