from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims.base import reproduce
from smalti.claims.cluster_reconstruct import error, miou, pooled, rebuilt, ridge


def test_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = reproduce("cluster-reconstruct", tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == "cluster-reconstruct"
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_overlap_is_the_mean_of_both_sides() -> None:
    wanted = torch.tensor([[True, True, False, False]])
    assert miou(wanted, wanted) == 1
    assert miou(torch.tensor([[True, False, False, False]]), wanted) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_linear_head_finds_the_line() -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    head = ridge(x, x @ torch.tensor([1.0, -2.0, 0.5]) + 3, penalty=1e-9)
    torch.testing.assert_close(head, torch.tensor([1.0, -2.0, 0.5, 3.0]), atol=1e-3, rtol=0)


def test_pieces_of_one_colour_are_rebuilt_by_clusters_but_not_by_pooling() -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    tokens = ((rows + columns) > 8).float().flatten()[None, :, None] * torch.ones(1, 1, 4)
    assert error(tokens, tokens) == 0
    sharp = error(tokens, rebuilt(tokens, 32, temperature=50.0))
    assert sharp < 0.01 < error(tokens, pooled(tokens, (8, 4)))
