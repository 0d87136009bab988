"""The claim of ResidualViT: its texts, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from smalti.backbones.residualvit import ResidualViT
from smalti.claims.base import reproduce
from smalti.claims.clips_of_worlds import clips
from smalti.claims.residualvit import COLOURS, KINDS, TEACHER, WHOLE, WORLD, Texts, judge, told, variant


def test_the_experiment_runs(tmp_path: Path) -> None:
    found = json.loads(reproduce("residualvit", tmp_path, seeds=1, quick=True).read_text())
    assert found["rows"]
    assert len(found["statements"]) == 4
    assert (tmp_path / "residualvit.png").read_bytes().startswith(b"\x89PNG")


def test_a_text_names_colour_kind_and_quarter() -> None:
    shown = clips(WORLD, "train", 6)
    for scene, row in zip(shown.scenes, told(shown), strict=True):
        thing = scene.things[0]
        for (x, y), number in zip(scene.tracks.centres[0], row.tolist(), strict=True):
            assert COLOURS[number // (4 * len(KINDS))] == thing.colour
            assert KINDS[number // 4 % len(KINDS)] == thing.kind
            assert number % 4 == (x > 24) + 2 * (y > 24)
    assert Texts(8)().shape == (4 * len(COLOURS) * len(KINDS), 8)


def test_a_variant_keeps_its_weights() -> None:
    model = ResidualViT(TEACHER).eval()
    bare = variant(model, residual=False, drop=0.0)
    assert bare.residual_tokenizer is None
    shown, texts = clips(WORLD, "train", 2), Texts(TEACHER.embedding)().detach()
    assert judge(model, WHOLE, texts, shown) == judge(bare, WHOLE, texts, shown)
    assert judge(bare, "", texts, shown)["cosine"] > 0.9999
    torch.testing.assert_close(model.tower.position, bare.tower.position)
