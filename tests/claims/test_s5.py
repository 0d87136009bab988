"""The claim of S5: what its sequences hide, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims import s5
from smalti.claims.base import reproduce


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("s5", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 4
    assert (tmp_path / "s5.png").read_bytes().startswith(b"\x89PNG")


def test_the_class_is_the_kind_of_what_follows_the_cue() -> None:
    tokens, classes, places = s5.sequences(40, torch.Generator().manual_seed(0))
    codebook = s5.SIZE * torch.randn(s5.EVENTS + 1, s5.DIM, generator=torch.Generator().manual_seed(7))
    planted = tokens.gather(1, places[..., None].expand(-1, -1, s5.DIM))
    nearest = torch.cdist(planted, codebook).argmin(-1)
    assert (nearest[:, 0] == s5.EVENTS).all()
    assert (nearest[:, 1:] == classes[:, None]).all()
    assert (places.diff(dim=1) > 0).all()


def test_all_planted_tokens_stay_where_all_tokens_stay() -> None:
    found = s5.judge(s5.network(s5.DENSE).eval(), s5.DENSE, 5)
    assert found["planted kept"] == 1
    assert s5.kept_for_backward(s5.GUIDED) < s5.kept_for_backward(s5.DENSE)
