from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml

import smalti
from smalti import weights
from smalti.errors import ConfigError
from smalti.registry import card
from smalti.training import data, recipe
from smalti.training.data import CropConfig, Crops
from smalti.training.loop import LoopConfig
from tests.tokenizers.tiny import tiny_config
from tests.training import made

CROPS = {
    "pictures": 2,
    "clips": 1,
    "crop": 16,
    "frames": 5,
    "sides": [60],
    "clip_side": 36,
    "segment": 6,
    "every": 0.0,
}
LOOP = {"warmup": 1, "log_every": 2, "save_every": 2, "learning_rate": 1e-3}
TINY = {
    "name": "tiny",
    "preset": "tiny",
    "objective": {"stage_weights": [3.0, 2.0, 1.0]},
    "crops": CROPS,
    "loop": {**LOOP, "steps": 4},
    "context_crops": CROPS,
    "context": {**LOOP, "steps": 9},
}


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, TINY)


def written(folder, values):
    path = folder / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


@pytest.fixture
def corpora(tmp_path, monkeypatch) -> None:
    """The names of the corpora mean those that the tests make; a small preset of mosaic."""
    root = tmp_path / "corpus"
    root.mkdir()
    found = {"photos": made.photos(root), "clips": made.clips(root)}
    monkeypatch.setattr(data, "assemble", found.__getitem__)
    monkeypatch.setitem(card("mosaic").presets, "tiny", tiny_config(chunk=16))


def test_a_recipe_is_read_into_its_parts(path) -> None:
    read = recipe.load(path)
    assert (read.name, read.tokenizer, read.output) == ("tiny", "mosaic", "model.safetensors")
    assert read.crops == CropConfig(2, 1, 16, 5, (60,), 36, 6, 0.0)
    assert read.loop == LoopConfig(steps=4, warmup=1, log_every=2, save_every=2, learning_rate=1e-3)


def test_overrides_change_single_keys(path) -> None:
    read = recipe.load(
        path, {"loop.steps": 100, "context.learning_rate": "1e-4", "objective.forget": 0.5, "name": "x"}
    )
    assert (read.loop.steps, read.loop.warmup) == (100, 1)
    assert read.context.learning_rate == 1e-4
    assert read.objective == {"stage_weights": [3.0, 2.0, 1.0], "forget": 0.5}
    assert read.name == "x"
    assert recipe.load(path) == recipe.load(path, {})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"nmae": "x"}, "Recipe has no field 'nmae': did you mean 'name'"),
        ({"loop.step": 3}, "LoopConfig has no field 'step': did you mean 'steps'"),
        ({"lop.steps": 3}, "Recipe has no field 'lop': did you mean 'loop'"),
        ({"objective.forgot": 3}, "no option 'forgot': did you mean 'forget'"),
        ({"name.first": 3}, "name holds no keys"),
        ({"loop.steps": "many"}, "LoopConfig.steps must be int, not 'many'"),
        ({"loop.precision": "fp61"}, "no precision 'fp61'"),
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
        ("name: a\nloop: {warmup: 3}", "steps"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe.load(written(tmp_path, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        recipe.load(tmp_path / "absent.yaml")


def test_a_recipe_trains_to_weights_that_load_and_running_again_does_nothing(path, corpora, tmp_path) -> None:
    output = recipe.train(path, runs=tmp_path / "runs")
    assert output == tmp_path / "runs" / "tiny" / "model.safetensors"
    model = smalti.load(output)
    assert weights.identify(model) == ("mosaic", "tiny")
    pixels = torch.rand(1, 3, 6, 17, 20)
    tokens = model.encode(pixels)
    assert model.decode(tokens).shape == pixels.shape
    coder, ids = model.entropy_coder(), tokens.ids.unflatten(1, tokens.grid)[0].numpy()
    assert (coder.decode(coder.encode(ids, model.stages), ids.shape[:3], model.stages) == ids).all()

    folder = output.parent
    logs = sorted(folder.rglob("log.jsonl"))
    steps = [[json.loads(line)["step"] for line in log.read_text().splitlines()] for log in logs]
    assert sorted(steps) == [[2, 4], [2, 4, 6, 8, 9]]
    kept = {file: file.stat().st_mtime_ns for file in (*logs, *folder.rglob("checkpoint.pt"))}
    assert recipe.train(path, runs=tmp_path / "runs") == output
    assert weights.read(output).fingerprint() == model.fingerprint()
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file in kept} == kept
    assert json.loads((folder / "recipe.json").read_text())["loop"]["steps"] == 4


def test_a_run_that_ran_out_of_time_writes_weights_and_goes_on(path, corpora, tmp_path) -> None:
    runs = tmp_path / "runs"
    early = weights.read(recipe.train(path, runs=runs, minutes=0.0))
    assert early.entropy_coder() is not None
    later = weights.read(recipe.train(path, runs=runs))
    unbroken = weights.read(recipe.train(path, runs=tmp_path / "unbroken"))
    assert later.fingerprint() == unbroken.fingerprint()  # also the context model is of the later tokens
    assert early.fingerprint() != later.fingerprint()


def test_principal_components_are_fitted_to_pictures_or_first_frames(corpora) -> None:
    config = weights.build(CropConfig, CROPS)
    pictures, groups = recipe.first_look(Crops(config), batches=3)
    assert pictures.shape == (6, 3, 1, 16, 16)
    assert groups.shape == (3, 3, 4, 16, 16)
    pictures, groups = recipe.first_look(Crops(dataclasses.replace(config, pictures=0)), batches=3)
    assert torch.equal(pictures, groups[:, :, :1])
