"""Every recipe loads, builds its system, and names parts that exist; a tiny one is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import smalti
from smalti import registry
from smalti.tokenizers.base import Tokenizer
from smalti.training.recipe import load
from smalti.training.sources import crops
from smalti.training.train import create, train
from tests.conftest import ROOT
from tests.training import made

RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
SMALL = [path for path in RECIPES if path.stem == "small"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_loads_and_says_what_to_expect(path: Path) -> None:
    recipe = load(path)
    assert recipe.system == path.parent.name
    assert recipe.expected
    card = registry.card(recipe.system, recipe.room)
    assert recipe.preset is None or recipe.preset in card.presets


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.parent.name)
def test_a_small_recipe_builds_a_small_tokenizer(path: Path) -> None:
    tokenizer = create(load(path))
    assert isinstance(tokenizer, Tokenizer)
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) < 3_000_000
    with torch.no_grad():
        assert tokenizer.reconstruct(torch.rand(1, 3, 1, 17, 9)).pixels.shape == (1, 3, 1, 17, 9)


def test_a_small_recipe_trains_in_two_steps_to_weights_that_load(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "corpus").mkdir()
    monkeypatch.setattr(crops, "assemble", {"photos": made.photos(tmp_path / "corpus")}.__getitem__)
    recipe = ROOT / "recipes" / "magvit" / "small.yaml"
    output = train(recipe, {"loop.steps": 2, "data.options.pictures": 2}, runs=tmp_path / "runs")
    before, after = create(load(recipe)), smalti.load(output)
    assert after.config == before.config
    assert after.fingerprint() != before.fingerprint()
