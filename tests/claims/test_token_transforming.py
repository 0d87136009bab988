from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.token_transforming import relative_error
from smalti.reducers.reduction import Assign, Gather, identity


def test_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = reproduce("token-transforming", tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == "token-transforming"
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_error_is_none_of_what_nothing_left_and_one_of_the_mean() -> None:
    tokens = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    assert relative_error(tokens, identity(tokens)) == 0
    one = Assign(torch.zeros(2, 6, dtype=torch.long), 1)
    assert relative_error(tokens, one) == pytest.approx(1, abs=1e-5)
    assert relative_error(tokens, Gather(6, torch.tensor([[0], [0]]))) > 0.5
