from __future__ import annotations

import json

import pytest
import yaml

from smalti.errors import ConfigError
from smalti.training import recipe
from smalti.training.loop import LoopConfig
from smalti.training.parts import Choice
from tests.conftest import ROOT
from tests.training.tiny import ALONE, CROPS, OBJECTIVE, TINY, written


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, TINY)


def test_a_recipe_is_read_into_its_parts(path) -> None:
    read = recipe.load(path)
    assert (read.name, read.system, read.output) == ("tiny", "mosaic", "model.safetensors")
    assert list(read.stages) == ["tokenizer", "context"]  # in the order in which they are written
    stage = read.stages["tokenizer"]
    assert stage.objective == Choice(**OBJECTIVE)
    assert stage.data == Choice("crops", CROPS)
    assert stage.loop == LoopConfig(steps=4, warmup=1, log_every=2, save_every=2, learning_rate=1e-3)


def test_keys_of_a_lone_stage_may_stand_beside_the_others(tmp_path) -> None:
    read = recipe.load(written(tmp_path, ALONE), {"loop.steps": 7})
    assert list(read.stages) == ["training"]
    assert read.stages["training"].loop.steps == 7
    assert read.stages["training"].objective == Choice(**OBJECTIVE)


def test_overrides_change_single_keys(path) -> None:
    overrides = {
        "stages.tokenizer.loop.steps": 100,
        "stages.context.loop.learning_rate": "1e-4",
        "stages.tokenizer.objective.options.forget": 0.5,
        "name": "x",
        "changes.width": 8,
    }
    read = recipe.load(path, overrides)
    tokenizer, context = read.stages.values()
    assert (tokenizer.loop.steps, tokenizer.loop.warmup) == (100, 1)
    assert context.loop.learning_rate == 1e-4
    assert tokenizer.objective.options == {"stage_weights": [3.0, 2.0, 1.0], "forget": 0.5}
    assert (read.name, read.changes) == ("x", {"width": 8})
    assert recipe.load(path) == recipe.load(path, {})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"nmae": "x"}, "Recipe has no field 'nmae': did you mean 'name'"),
        ({"dtype": "float61"}, "no dtype 'float61'"),
        ({"stages.tokenizer.lop": 3}, "Stage has no field 'lop': did you mean 'loop'"),
        ({"stages.tokenizer.loop.step": 3}, "LoopConfig has no field 'step': did you mean 'steps'"),
        ({"stages.tokenizer.loop.steps": "many"}, "LoopConfig.steps must be int, not 'many'"),
        ({"stages.tokenizer.loop.precision": "fp61"}, "no precision 'fp61'"),
        ({"stages.tokenizer.loop": 3}, "stage tokenizer: loop must be a mapping, not 3"),
        (
            {"stages.tokenizer.objective": "mosaic"},
            "stage tokenizer: objective must be a mapping, not 'mosaic'",
        ),
        ({"stages.tokenizer.objective.nme": "mosaic"}, "Choice has no field 'nme': did you mean 'name'"),
        ({"stages.tokenizer.objective.name": "mosiac"}, "no objective 'mosiac': did you mean 'mosaic'"),
        ({"stages.tokenizer.objective.options.forgot": 3}, "no field 'forgot': did you mean 'forget'"),
        ({"stages.tokenizer.data.name": "crop"}, "no data source 'crop': did you mean 'crops'"),
        (
            {"stages.context.data.options.crops.corp": 3},
            "CropConfig has no field 'corp': did you mean 'crop'",
        ),
        ({"name.first": 3}, "name holds no keys"),
        ({"stages": [1]}, "stages: a mapping of names"),
        ({"stages": {"one": 1}}, "stage one: a mapping with objective"),
        ({"stages": {}}, "no stage: give objective, data and loop"),
        ({"loop.steps": 3}, "loop beside stages"),
        ({"stages.third": {"loop": {"steps": 3}}}, "stage third: objective must be a mapping, not None"),
    ],
)
def test_a_key_or_value_that_no_recipe_has_is_refused(path, overrides, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe.load(path, overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "holds no recipe"),
        ("", "holds no recipe"),
        ("name: [", "cannot be read as a recipe"),
        ("preset: default", "name"),
        (yaml.safe_dump({**ALONE, "loop": {"warmup": 3}}), "steps"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe.load(written(tmp_path, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        recipe.load(tmp_path / "absent.yaml")


def test_the_recipe_is_recorded_as_it_is_run(path, tmp_path) -> None:
    recipe.record(recipe.load(path, {"stages.tokenizer.loop.steps": 3}), tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recorded["stages"]["tokenizer"]["loop"]["steps"] == 3
    assert recorded["stages"]["context"]["objective"]["name"] == "mosaic-context"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_read(path) -> None:
    assert recipe.load(path).expected


def test_the_recipe_that_the_documentation_shows_can_be_read(tmp_path) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    read = recipe.load(written(tmp_path, text))
    assert (read.start_from, read.changes, list(read.stages)) == ("mosaic", {"width": 96}, ["training"])
