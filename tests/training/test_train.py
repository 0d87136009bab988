from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest
import torch

import smalti
from smalti import registry, weights
from smalti.cli import main
from smalti.errors import ConfigError
from smalti.registry import card
from smalti.tokenizers.mosaic import Mosaic
from smalti.training import recipe, train
from smalti.training.checkpoint import CHECKPOINT
from smalti.training.sources import crops
from tests.tokenizers.tiny import tiny_config
from tests.training import made
from tests.training.tiny import ALONE, CROPS, TINY, written


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, TINY)


@pytest.fixture
def corpora(tmp_path, monkeypatch) -> None:
    """The names of the corpora mean those that the tests make; a small preset of mosaic."""
    root = tmp_path / "corpus"
    root.mkdir()
    found = {"photos": made.photos(root), "clips": made.clips(root)}
    monkeypatch.setattr(crops, "assemble", found.__getitem__)
    monkeypatch.setitem(card("mosaic").presets, "tiny", tiny_config(chunk=16))


def test_a_recipe_trains_to_weights_that_load_and_running_again_does_nothing(path, corpora, tmp_path) -> None:
    output = train.train(path, runs=tmp_path / "runs")
    assert output == tmp_path / "runs" / "tiny" / "model.safetensors"
    model = smalti.load(output)
    assert weights.identify(model) == ("mosaic", "tiny")
    assert all(torch.equal(value, value.half().float()) for value in model.parameters())
    pixels = torch.rand(1, 3, 6, 17, 20)
    tokens = model.encode(pixels)
    assert model.decode(tokens).shape == pixels.shape
    coder, ids = model.entropy_coder(), tokens.ids.unflatten(1, tokens.grid)[0].numpy()
    assert (coder.decode(coder.encode(ids, model.stages), ids.shape[:3], model.stages) == ids).all()

    folder = output.parent
    logs = sorted(folder.rglob("log.jsonl"))
    assert [log.parent.name.partition("-")[0] for log in logs] == ["context", "tokenizer"]
    steps = [[json.loads(line)["step"] for line in log.read_text().splitlines()] for log in logs]
    assert steps == [[2, 4, 6, 8, 9], [2, 4]]
    kept = {file: file.stat().st_mtime_ns for file in (*logs, *folder.rglob(CHECKPOINT))}
    assert train.train(path, runs=tmp_path / "runs") == output
    assert weights.read(output).fingerprint() == model.fingerprint()
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file in kept} == kept


def test_the_weights_are_the_averaged_ones_of_the_last_checkpoint(corpora, tmp_path) -> None:
    path = written(tmp_path, {**ALONE, "loop": {**ALONE["loop"], "average": 0.9}})
    output = train.train(path, runs=tmp_path / "runs")
    state = torch.load(output.parent / "training" / CHECKPOINT, weights_only=True)
    for name, value in weights.read(output).named_parameters():
        assert torch.equal(value, state["average"][f"tokenizer.{name}"]), name
    assert not torch.equal(
        state["average"]["tokenizer.clip.analysis"], state["objective"]["tokenizer.clip.analysis"]
    )


def test_a_run_that_ran_out_of_time_writes_weights_and_goes_on(path, corpora, tmp_path) -> None:
    runs = tmp_path / "runs"
    early = weights.read(train.train(path, runs=runs, minutes=0.0))
    assert early.entropy_coder() is not None
    later = weights.read(train.train(path, runs=runs))
    unbroken = weights.read(train.train(path, runs=tmp_path / "unbroken"))
    assert later.fingerprint() == unbroken.fingerprint()  # also the context model is of the later tokens
    assert early.fingerprint() != later.fingerprint()


def test_pictures_alone_train_a_tokenizer_and_its_context_model(corpora, tmp_path) -> None:
    alone = {**CROPS, "clips": 0}
    overrides = {
        "stages.tokenizer.data.options": alone,
        "stages.context.data.options.crops": alone,
    }
    model = weights.read(train.train(written(tmp_path, TINY), overrides, tmp_path / "runs"))
    pixels = torch.rand(1, 3, 1, 17, 20)
    assert model.decode(model.encode(pixels)).shape == pixels.shape


def given(tmp_path, **changes) -> tuple[str, Mosaic]:
    torch.manual_seed(5)
    model = Mosaic(tiny_config(chunk=16, **changes))
    weights.write(model, tmp_path / "given.safetensors")
    return str(tmp_path / "given.safetensors"), model


def test_training_goes_on_from_given_weights(corpora, tmp_path) -> None:
    place, model = given(tmp_path)
    path = written(tmp_path, ALONE)
    overrides = {"start_from": place, "loop.learning_rate": 0.0}
    trained = weights.read(train.train(path, overrides, tmp_path / "runs"))
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-6)
    fresh = weights.read(train.train(path, {"loop.learning_rate": 0.0}, tmp_path / "others"))
    assert not torch.allclose(fresh.clip.analysis, model.clip.analysis, atol=0.01)


def test_a_resumed_run_keeps_its_own_weights(corpora, tmp_path) -> None:
    place, _ = given(tmp_path)
    path, overrides = written(tmp_path, ALONE), {"start_from": place}
    train.train(path, overrides, tmp_path / "runs", minutes=0.0)
    resumed = weights.read(train.train(path, overrides, tmp_path / "runs"))
    unbroken = weights.read(train.train(path, overrides, tmp_path / "unbroken"))
    assert resumed.fingerprint() == unbroken.fingerprint()


def test_shipped_weights_are_found_by_name(corpora, tmp_path, monkeypatch) -> None:
    _, model = given(tmp_path)
    monkeypatch.setattr(weights, "shipped", lambda: {"ours": tmp_path / "given.safetensors"})
    system = registry.create("mosaic", "tiny")
    train.take_over(system, "ours")
    assert system.fingerprint() == model.fingerprint()


def test_weights_that_do_not_fit_are_refused(corpora, tmp_path) -> None:
    system = registry.create("mosaic", "tiny")
    place, _ = given(tmp_path, width=24)
    with pytest.raises(ConfigError, match="does not fit this preset of Mosaic"):
        train.take_over(system, place)
    with pytest.raises(ConfigError, match="no such file or folder"):
        train.take_over(system, str(tmp_path / "absent" / "one"))
    with pytest.raises(ConfigError, match="holds Mosaic, not Linear"):
        train.take_over(torch.nn.Linear(1, 1), place)


def test_fields_of_the_preset_are_changed_also_deep_inside(corpora, tmp_path) -> None:
    path = written(tmp_path, {**ALONE, "changes": {"width": 24, "quantizer": {"limits": [2, 2, 0]}}})
    config = train.create(recipe.load(path)).config
    quantizer = dataclasses.replace(tiny_config().quantizer, limits=(2, 2, 0))
    assert config == dataclasses.replace(tiny_config(chunk=16), width=24, quantizer=quantizer)
    for overrides, words in (
        ({"changes": {"widht": 3}}, "did you mean 'width'"),
        ({"changes": {"quantizer": {"limit": 3}}}, "did you mean 'limits'"),
        ({"preset": "tniy"}, "mosaic has no preset 'tniy': did you mean 'tiny'"),
        ({"system": "mosaik"}, "did you mean 'mosaic'"),
        ({"room": "reducers"}, "no system 'mosaic'"),
    ):
        with pytest.raises(ConfigError, match=words):
            train.create(recipe.load(path, overrides))


def test_the_command_trains_from_given_weights(corpora, tmp_path, monkeypatch, capsys) -> None:
    place, model = given(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(written(tmp_path, ALONE)), "loop.learning_rate=0", "--start-from", place]) == 0
    assert "runs/alone/model.safetensors" in capsys.readouterr().out
    trained = weights.read("runs/alone/model.safetensors")
    torch.testing.assert_close(trained.clip.analysis, model.clip.analysis, rtol=0, atol=1e-6)


def test_the_command_ends_with_130_after_a_signal_and_goes_on_when_run_again(
    corpora, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", str(written(tmp_path, ALONE))]
    batch = crops.Crops.batch

    def signalled(self, step: int, seed: int = 0):
        if (step, seed) == (2, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, seed)

    with monkeypatch.context() as patch:
        patch.setattr(crops.Crops, "batch", signalled)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    folder = tmp_path / "runs" / "alone"
    assert torch.load(folder / "training" / CHECKPOINT, weights_only=True)["step"] == 3
    assert not (folder / "model.safetensors").exists()
    assert main(command) == 0
    unbroken = weights.read(train.train(written(tmp_path, ALONE), runs=tmp_path / "unbroken"))
    assert weights.read(folder / "model.safetensors").fingerprint() == unbroken.fingerprint()
