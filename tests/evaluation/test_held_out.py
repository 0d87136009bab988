import json

import pytest

from smalti.cli import main
from smalti.errors import ConfigError
from smalti.evaluation.held_out import held_out
from smalti.training.corpora.manifest import Manifest
from tests.training.made import item

from .makers import save_picture, scene


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path))
    root = tmp_path / "data" / "photos"
    (root / "files").mkdir(parents=True)
    return root


def assembled(root, **splits):
    for seed, file in enumerate(splits):
        save_picture(scene(32, 40, seed=seed), root / "files" / f"{file}.png")
    items = [item(f"files/{file}.png", 32, 40, split) for file, split in splits.items()]
    Manifest("photos", "made", {"made": {}}, items).write(root)


def test_what_is_held_out_goes_before_what_validates(root):
    assembled(root, a="train", b="val", c="held-out", d="held-out", e="seen")
    assert held_out("photos") == [root / "files" / "c.png", root / "files" / "d.png"]
    assembled(root, a="train", b="val", e="seen")
    assert held_out("photos") == [root / "files" / "b.png"]


def test_a_file_that_is_trained_on_in_part_is_left_out(root):
    assembled(root, a="train", b="val")
    parts = [item("files/a.png", 32, 40, "val"), *Manifest.read(root).items]
    Manifest("photos", "made", {"made": {}}, parts).write(root)
    assert held_out("photos") == [root / "files" / "b.png"]


def test_errors_say_what_to_run(root):
    with pytest.raises(ConfigError, match=r"no data: .* smalti data photos"):
        held_out("photos")
    with pytest.raises(ConfigError, match="smalti data clips"):
        held_out("clips")
    assembled(root, a="train")
    with pytest.raises(ConfigError, match="keeps nothing back"):
        held_out("photos")
    assembled(root, b="val")
    (root / "files" / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"b\.png is missing: run smalti data photos again"):
        held_out("photos")


def test_the_command_evaluates_on_it_without_data(root, tmp_path, capsys):
    from smalti import weights
    from tests.tokenizers.tiny import tiny_mosaic

    place = str(tmp_path / "tiny.safetensors")
    weights.write(tiny_mosaic(), place)
    assert main(["evaluate", place, "--no-judges", "--json"]) == 2
    assert "smalti data photos" in capsys.readouterr().err
    assembled(root, a="train", b="val", c="val")
    assert main(["evaluate", place, "--no-judges", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["run"]["data"]["names"] == ["b.png", "c.png"]
