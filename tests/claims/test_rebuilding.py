"""The claims of tokenizers run; what they share samples, trains and measures rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smalti.claims import rebuilding
from smalti.claims.base import Lab, reproduce
from smalti.claims.rebuilding import SIDE, material, mean, measure, real, sampled, train
from smalti.tokenizers.base import Tokenizer
from smalti.tokenizers.vitok import ViTok, ViTokConfig
from smalti.training.corpora import Corpus
from tests.training import made

CLAIMS = (
    "atoken", "cdt", "fqgan", "larp", "magvit", "omnitokenizer", "one-d-piece", "phenaki", "titok", "vitok"
)  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_the_experiment_runs(name: str, tmp_path: Path) -> None:
    found = json.loads(reproduce(name, tmp_path, seeds=1, quick=True).read_text())
    assert found["claim"] == name
    assert found["rows"]
    assert len(found["statements"]) >= 3
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return ViTok(ViTokConfig(32, 1, 1, 2, 1, 8, 32, variational=False))


def pool() -> torch.Tensor:
    return material(Lab(quick=True), "pictures", 4)[0]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    crops = pool()
    first = sampled(crops, 3, 32, 0, 5)
    assert first.shape == (3, 3, 1, 32, 32)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, sampled(crops, 3, 32, 0, 5))
    assert not torch.equal(first, sampled(crops, 3, 32, 0, 6))
    assert not torch.equal(first, sampled(crops, 3, 32, 1, 5))


def test_frames_of_a_batch_follow_each_other() -> None:
    frames = torch.arange(9, dtype=torch.uint8)[None, None, :, None, None].expand(2, 3, 9, SIDE, SIDE)
    for step in range(5):
        cut = (sampled(frames, 2, 8, 0, step, frames=4) * 255).round()
        assert (cut.diff(dim=2) == 1).all()


def test_training_lessens_the_error() -> None:
    crops = pool()
    before = measure(tokenizer(), crops)
    after = measure(train(tokenizer(), lambda step: {"pictures": sampled(crops, 4, 32, 0, step)}, 30), crops)
    assert after["error"] < before["error"] / 2
    assert after["psnr"] > before["psnr"] + 3


def test_measures_of_a_perfect_and_of_a_grey_tokenizer(monkeypatch) -> None:
    crops, model = pool(), tokenizer()
    monkeypatch.setattr(model, "decode", lambda tokens: crops.float() / 255)
    assert measure(model, crops)["error"] == 0
    monkeypatch.setattr(model, "decode", lambda tokens: crops.float() / 255 + 0.1)
    assert measure(model, crops)["psnr"] == pytest.approx(20, abs=1e-3)


def test_crops_are_made_once_and_splits_share_no_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rebuilding, "cache_home", lambda: tmp_path)
    monkeypatch.setattr(rebuilding, "COUNTS", {("pictures", "train"): 40, ("pictures", "val"): 8})
    asked = []

    def photos(name: str) -> Corpus:
        asked.append(name)
        (tmp_path / "corpus").mkdir(exist_ok=True)
        return made.photos(tmp_path / "corpus")

    monkeypatch.setattr("smalti.training.sources.crops.assemble", photos)
    crops, others = real("pictures", "train"), real("pictures", "val")
    assert (crops.shape, others.shape) == ((40, 3, 1, SIDE, SIDE), (8, 3, 1, SIDE, SIDE))
    assert torch.equal(real("pictures", "train"), crops)
    assert asked == ["photos", "photos"]
    assert not any(torch.equal(crop, other) for crop in crops for other in others)


def test_means_are_over_the_rows_that_are_wanted() -> None:
    rows = [{"method": "a", "x": 1.0}, {"method": "b", "x": 5.0}, {"method": "a", "x": 2.0}]
    assert mean(rows, "x", method="a") == 1.5
