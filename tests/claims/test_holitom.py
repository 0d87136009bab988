"""The claim of HoliTom runs, and its measures are right."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.holitom import Film, boundaries, kept_tokens, nearest_error


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("holitom", tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == "holitom"
    assert found["rows"]
    assert found["statements"]
    assert (tmp_path / "holitom.png").read_bytes().startswith(b"\x89PNG")


def test_nearest_error_is_none_for_all_tokens_and_one_for_their_mean() -> None:
    tokens = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert nearest_error(tokens, tokens) < 1e-6
    assert abs(nearest_error(tokens, tokens.mean(0, keepdim=True)) - 1) < 1e-5


def test_two_stills_have_their_cut_as_only_boundary() -> None:
    stills = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    assert boundaries(stills[[0, 0, 0, 0, 0, 1, 1, 1]], 0.8) == {5}


def test_every_method_leaves_as_many_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    film = Film("made", torch.randn(8, 25, 6, generator=generator), torch.rand(8, 25, generator=generator))
    for method in ("HoliTom", "each frame's most attended", "evenly spaced"):
        assert kept_tokens(film, method, 0.2).shape == (40, 6)
