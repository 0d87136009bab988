"""The claim of TTVSR: flow by search, parts of windows, and its measures; it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.ttvsr import cut_out, decibels, judged, matched, rendered_windows


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("ttvsr", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 5
    assert (tmp_path / "ttvsr.png").read_bytes().startswith(b"\x89PNG")


def test_search_finds_a_shift() -> None:
    whole = torch.rand(1, 3, 30, 30)
    flow = matched(whole[..., 2:26, 3:27], whole[..., 1:25, 5:29])
    inner = flow[..., 6:-6, 6:-6]
    torch.testing.assert_close(inner, torch.tensor([-2.0, 1.0]).view(1, 2, 1, 1).expand_as(inner))
    assert not matched(whole, whole).any()


def test_parts_of_fine_and_coarse_frames_show_the_same_place() -> None:
    (whole,) = rendered_windows(0, 1).values()
    part = cut_out(whole, 2, 3, 5, 12, 4)
    assert part.fine.shape == (1, 3, 4, 48, 48)
    assert part.coarse.shape == (1, 3, 4, 12, 12)
    assert part.flows.forward.shape == (1, 3, 2, 12, 12)
    means = torch.nn.functional.avg_pool3d(part.fine, (1, 4, 4))
    assert (means - part.coarse).abs().mean() < 0.03


def test_a_steady_error_is_none_in_what_changes() -> None:
    (whole,) = rendered_windows(1, 1).values()
    found = judged(whole.fine + 0.1, whole)
    assert found["psnr"] == pytest.approx(20, abs=1e-3)
    assert found["time"] > 100
    assert decibels(torch.full((4,), 0.01)) == pytest.approx(40, abs=1e-3)
