from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.claims.base import reproduce
from smalti.claims.ia_red2 import above, by_chance, needles


def test_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = reproduce("ia-red2", tmp_path, seeds=1, quick=True)
    found = json.loads(path.read_text())
    assert found["claim"] == "ia-red2"
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_scores_above_all_others_have_the_whole_area() -> None:
    scores, wanted = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.5, 0.5]]), torch.tensor([1, 0])
    assert above(scores[:1], wanted[:1]) == 1
    assert above(scores[1:], wanted[1:]) == 0.5
    assert above(-scores[:1], wanted[:1]) == 0


def test_chance_keeps_as_many_nested() -> None:
    kept = tuple(
        torch.rand(3, 65, generator=torch.Generator().manual_seed(0)) < share for share in (0.5, 0.2)
    )
    policy = by_chance(kept, 0)
    drawn = [policy(torch.zeros(3, 65), kept[0], group) for group in range(2)]
    for own, chance in zip(kept, drawn, strict=True):
        assert torch.equal(own[:, 1:].sum(1), chance[:, 1:].sum(1))
        assert chance[:, 0].all()
    assert not (drawn[1] & ~drawn[0]).any()


def test_the_needle_lies_where_it_is_said_to_lie() -> None:
    pixels, labels, where = needles("test", torch.arange(4), 3)
    assert pixels.shape == (4, 3, 1, 56, 56)
    assert labels.shape == where.shape == (4,)
    again, _, other = needles("test", torch.arange(4), 3)
    assert torch.equal(pixels, again)
    assert torch.equal(where, other)
    tiles = pixels[:, 0, 0].unfold(1, 7, 7).unfold(2, 7, 7).flatten(1, 2)
    bright = (tiles.flatten(2).amax(2) > 0.3).sum(1)
    assert (bright <= 13).all()
    assert (tiles.flatten(2).amax(2).gather(1, where[:, None]) > 0.3).all()
