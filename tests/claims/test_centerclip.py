"""The claim of CenterCLIP runs; captions and clips belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.centerclip import CAPTIONS, clips, standard_error, words


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("centerclip", tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == "centerclip"
    assert found["rows"]
    assert found["statements"]
    assert (tmp_path / "centerclip.png").read_bytes().startswith(b"\x89PNG")


def test_captions_differ_and_end_with_the_highest_word() -> None:
    written = words(torch.arange(len(CAPTIONS)))
    assert len(written.unique(dim=0)) == len(CAPTIONS) == 72
    assert (written.argmax(1) == 3).all()


def test_only_what_rests_looks_the_same_in_every_frame() -> None:
    numbers = torch.arange(len(CAPTIONS))
    shown = clips(torch.rand(2, 3, 96, 96), numbers, torch.Generator().manual_seed(0))
    still = (shown == shown[:, :, :1]).flatten(1).all(1)
    assert torch.equal(still, CAPTIONS[:, 2] == 3)


def test_the_standard_error_of_two_coins() -> None:
    assert standard_error(50.0, 2500) == pytest.approx(2**0.5)
    assert standard_error(0.0, 10) == 0
