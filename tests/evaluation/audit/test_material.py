import numpy as np
import pytest
import torch
from PIL import Image

from smalti.errors import MediaError
from smalti.evaluation.audit.material import SETS, Material, material, square


def write(path, colour, size=(20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_folders_gives_classes(tmp_path) -> None:
    for place in range(3):
        write(tmp_path / "cats" / f"{place}.png", (255, 0, 0))
    write(tmp_path / "dogs" / "0.png", (0, 0, 255))
    found = material(tmp_path, 8)
    assert found.classes == ("cats", "dogs")
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.pixels.shape == (4, 3, 8, 8)
    assert found.pixels[3, :, 0, 0].tolist() == [0, 0, 255]
    assert material(tmp_path, 8, limit=2).labels.tolist() == [0, 1], "evenly from all classes"


def test_files_have_no_classes(tmp_path) -> None:
    write(tmp_path / "a.png", (255, 0, 0))
    write(tmp_path / "b.png", (0, 255, 0))
    found = material([tmp_path / "b.png", tmp_path / "a.png"], 4)
    assert found.labels is None
    assert found.pixels[:, :, 0, 0].tolist() == [[0, 255, 0], [255, 0, 0]], "in the order given"
    (batch,) = found.batches(8)
    assert batch.max() == 1
    assert found.digest != material([tmp_path / "a.png", tmp_path / "b.png"], 4).digest


def test_the_centre_of_the_longer_side_is_taken() -> None:
    pixels = torch.zeros(3, 10, 30)
    pixels[:, :, 10:20] = 1
    assert (square(pixels, 10) == 255).all()
    assert square(torch.rand(3, 7, 5), 16).shape == (3, 16, 16)


def test_a_clip_is_refused(media) -> None:
    with pytest.raises(MediaError, match="clip"):
        material([media / "clip.mp4"], 8)


def test_a_named_set_is_read_by_its_name(monkeypatch) -> None:
    def made():
        return [("even", lambda: torch.zeros(3, 9, 9)), ("odd", lambda: torch.ones(3, 9, 9))]

    monkeypatch.setitem(SETS, "fashion-mnist", made)
    found = material("fashion-mnist", 4)
    assert found.classes == ("even", "odd")
    assert found.pixels.float().mean((1, 2, 3)).tolist() == [0, 255]


def test_small_pictures_are_enlarged_to_look_at() -> None:
    pixels = torch.from_numpy(np.full((1, 3, 32, 32), 7, np.uint8))
    assert Material("made", pixels).picture(0).size == (448, 448)
