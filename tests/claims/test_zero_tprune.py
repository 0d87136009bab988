from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.equal_cost import at_cost, counted_share
from smalti.claims.material import small_vit
from smalti.nn.flops import count_flops


def test_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = reproduce("zero-tprune", tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == "zero-tprune"
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_reducers_are_compared_at_the_same_counted_cost() -> None:
    model, example = small_vit().eval(), torch.zeros(1, 3, 48, 48)
    whole = count_flops(model, example)
    tokens = {}
    for name, options in (("zero-tprune", {"order": "I"}), ("random", {})):
        with at_cost(model, name, 0.65, example, [0, 1, 3, 5, 6], **options) as handle:
            assert 0.63 < counted_share(model, example, whole) <= 0.65
            tokens[name] = handle.counts[-1]
    assert tokens["zero-tprune"] < tokens["random"]  # choosing costs something, too
    assert count_flops(model, example) == whole
