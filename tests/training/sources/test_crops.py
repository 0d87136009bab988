from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from smalti.errors import ConfigError
from smalti.training.corpora import Corpus
from smalti.training.sources import crops as module
from smalti.training.sources.crops import CropConfig, Crops, scaled
from tests.training import made

CONFIG = CropConfig(
    pictures=3, clips=2, crop=24, frames=5, sides=(80, 60), clip_side=36, segment=6, every=0.0
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Corpus, Corpus]:
    root = tmp_path_factory.mktemp("corpus")
    return made.photos(root), made.clips(root)


@pytest.fixture(scope="module")
def crops(corpora) -> Crops:
    return Crops(CONFIG, *corpora)


def test_pictures_are_held_at_every_side_and_clips_in_segments(crops: Crops) -> None:
    assert sorted(p.shape for p in crops.pictures) == [(60, 80, 3)] * 2 + [(80, 107, 3)] * 2
    assert [s.shape for s in crops.segments] == [(6, 36, 48, 3)] * 3
    assert all(pixels.dtype == np.uint8 for pixels in (*crops.pictures, *crops.segments))


def test_a_part_of_a_clip_gives_its_own_frames(crops: Crops) -> None:
    assert np.array_equal(crops.segments[2], crops.segments[1])
    assert crops.segments[0].mean() < crops.segments[1].mean()  # the clip grows brighter


def test_a_batch_holds_crops_in_the_range(crops: Crops) -> None:
    batch = crops.batch(0)
    assert batch["pictures"].shape == (3, 3, 1, 24, 24)
    assert batch["clips"].shape == (2, 3, 5, 24, 24)
    for pixels in batch.values():
        assert pixels.dtype == torch.float32
        assert 0 <= pixels.min() < pixels.max() <= 1


def test_a_batch_depends_on_seed_and_step_alone(crops: Crops) -> None:
    one, again = crops.batch(4, 2), crops.batch(4, 2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    for other in (crops.batch(5, 2), crops.batch(4, 3)):
        assert not torch.equal(one["pictures"], other["pictures"])


def test_crops_are_cut_from_anywhere_and_half_of_them_mirrored(corpora) -> None:
    config = dataclasses.replace(CONFIG, clips=0, crop=8, sides=(60,), pictures=1)
    crops = Crops(config, *corpora)
    crops.pictures = [np.arange(10 * 12, dtype=np.uint8).reshape(10, 12, 1).repeat(3, 2)]
    places, mirrored = set(), []
    for step in range(200):
        found = (crops.batch(step)["pictures"][0, 0, 0] * 255).round().long()
        mirrored.append(bool(found[0, 1] < found[0, 0]))
        upright = found.flip(1) if mirrored[-1] else found
        y, x = divmod(int(upright[0, 0]), 12)
        places.add((y, x))
        assert torch.equal(upright, torch.arange(120).reshape(10, 12)[y : y + 8, x : x + 8])
    assert places == {(y, x) for y in range(3) for x in range(5)}
    assert 60 < sum(mirrored) < 140


def test_frames_are_cut_from_anywhere_in_a_segment(corpora) -> None:
    crops = Crops(dataclasses.replace(CONFIG, pictures=0, frames=3), *corpora)
    crops.segments = [
        np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(30, 1).repeat(30, 2).repeat(3, 3)
    ]
    starts = set()
    for step in range(40):
        times = (crops.batch(step)["clips"][0, 0, :, 0, 0] * 255).round().long().tolist()
        assert times == list(range(times[0], times[0] + 3))
        starts.add(times[0])
    assert starts == {0, 1, 2}


@pytest.mark.parametrize(("every", "most", "count"), [(0.0, 99, 4), (0.9, 99, 2), (0.0, 2, 2), (5.0, 99, 1)])
def test_segments_keep_their_distance_and_number(corpora, every: float, most: int, count: int) -> None:
    config = dataclasses.replace(CONFIG, pictures=0, segment=3, frames=3, every=every, most=most)
    whole = Corpus(corpora[1].root, corpora[1].items[:1])
    assert len(Crops(config, None, whole).segments) == count


def test_a_split_is_read_alone(corpora) -> None:
    config = dataclasses.replace(CONFIG, clips=0, sides=(60,))
    assert len(Crops(config, corpora[0], split="val").pictures) == 1


def test_without_pictures_or_clips_a_batch_has_none(corpora) -> None:
    assert Crops(dataclasses.replace(CONFIG, clips=0), *corpora).batch(0).keys() == {"pictures"}
    assert Crops(dataclasses.replace(CONFIG, pictures=0), *corpora).batch(0).keys() == {"clips"}


@pytest.mark.parametrize("changes", [{"crop": 90, "clips": 0}, {"crop": 40, "pictures": 0}])
def test_media_smaller_than_the_crop_are_refused(corpora, changes) -> None:
    with pytest.raises(ConfigError, match=f"{changes['crop']} pixels a side: choose a smaller crop"):
        Crops(dataclasses.replace(CONFIG, **changes), *corpora)


def test_an_empty_corpus_is_refused_and_no_other_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "assemble", lambda name: pytest.fail("fetched a corpus"))
    with pytest.raises(ConfigError, match="no picture or clip"):
        Crops(CONFIG, Corpus(tmp_path), Corpus(tmp_path))


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((100, 200), 50, (50, 100)),
        ((200, 100), 50, (100, 50)),
        ((40, 60), 50, (40, 60)),
        ((99, 99), 99, (99, 99)),
    ],
)
def test_the_shorter_side_is_scaled_down_and_never_up(size, side: int, wanted) -> None:
    assert scaled(*size, side) == wanted


def test_pictures_and_clips_take_turns(corpora) -> None:
    both = Crops(CONFIG, *corpora)
    turns = Crops(dataclasses.replace(CONFIG, alternate=True), *corpora)
    assert [list(turns.batch(step)) for step in range(4)] == [["pictures"], ["clips"]] * 2
    assert torch.equal(turns.batch(2)["pictures"], both.batch(2)["pictures"])
    with pytest.raises(ConfigError, match="pictures and clips to alternate"):
        CropConfig(clips=0, alternate=True)


def test_crops_grow_from_batch_to_batch(corpora) -> None:
    crops = Crops(dataclasses.replace(CONFIG, crop=8, growth=((3, 16), (5, 24))), *corpora)
    sides = [{tuple(pixels.shape[3:]) for pixels in crops.batch(step).values()} for step in range(7)]
    assert sides == [{(8, 8)}] * 3 + [{(16, 16)}] * 2 + [{(24, 24)}] * 2
    assert min(min(p.shape[:2]) for p in crops.pictures) >= 24
    with pytest.raises(ConfigError, match="40 pixels a side"):
        Crops(dataclasses.replace(CONFIG, pictures=0, growth=((3, 40),)), *corpora)
    with pytest.raises(ConfigError, match="in order"):
        CropConfig(growth=((5, 16), (3, 24)))
