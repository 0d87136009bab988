"""The claim of VQToken runs, and its measures are right."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.vqtoken import CODES, METHODS, adjusted_rand, planted, reduced, videos


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("vqtoken", tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == "vqtoken"
    assert found["rows"]
    assert found["statements"]
    assert (tmp_path / "vqtoken.png").read_bytes().startswith(b"\x89PNG")


def test_groupings_agree_whatever_their_numbers() -> None:
    first = torch.tensor([0, 0, 1, 1, 2, 2])
    assert adjusted_rand(first, (first + 1) % 3) == 1
    assert adjusted_rand(first, torch.tensor([0, 1, 0, 1, 0, 1])) < 0.1


def test_planted_textures_without_noise_are_found() -> None:
    assert planted(5, 0.0, seed=0) == {"codes": 5, "rand": 1.0}


def test_every_method_leaves_as_many_tokens() -> None:
    tokens = videos(torch.rand(2, 3, 96, 96), 3, seed=0).tokens
    for method in METHODS:
        assert reduced(method, tokens).apply(tokens).shape == (3, CODES, tokens.shape[2])
