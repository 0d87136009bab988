import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from smalti.errors import BudgetError, ConfigError, IntegrityError, MediaError
from smalti.training.corpora.assembly import assemble_recipe
from smalti.training.corpora.fetch import sha256_of
from smalti.training.corpora.manifest import Corpus
from smalti.training.corpora.recipe import parse
from tests.training.corpora.packs import clip, photograph, recipe_text, source, tgz, tiny_photos, zipped


def assembled(text: str, root: Path) -> Corpus:
    return assemble_recipe(parse(text), root, progress=False)


def names(root: Path) -> set[str]:
    return {f"files/{path.name}" for path in (root / "files").iterdir()}


def test_photographs_are_kept_and_the_rest_is_dropped(packages: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    corpus = assembled(tiny_photos(packages), root)
    assert corpus.counts() == {"train": 3, "val": 1}
    inner = ["v/1.png", "2.png", "r.rcc!/images/3.png", "r.rcc!/images/4.png"]
    assert [item.inner for item in corpus] == inner
    assert [item.package for item in corpus] == ["first", "second", "third", "third"]
    for item in corpus:
        assert sha256_of(corpus.path(item)) == item.sha256
        assert (item.width, item.height, item.frames, item.licence) == (160, 120, 1, "CC0-1.0")
    assert names(root) == {item.file for item in corpus}
    manifest = json.loads((root / "manifest.json").read_text())
    double = f"a double of {corpus.items[0].file}"
    assert manifest["packages"]["second"] == {
        "copy.png": double,
        "larger.jpg": double,
        "logo.png": "one colour fills 81%",
        "x.png": "not a picture",
    }
    assert manifest["packages"]["third"] == {"r.rcc!/images/thin.png": "short side below 96 px"}


def test_second_run_only_verifies(packages: Path, tmp_path: Path) -> None:
    root, text = tmp_path / "root", tiny_photos(packages)
    first = assembled(text, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    shutil.rmtree(packages)
    assert assembled(text, root).items == first.items
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from smalti.training.corpora import assembly, recipe
writes, replace = 0, os.replace
def replace_or_die(*names):
    global writes
    writes += 1
    if writes == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = replace_or_die
assembly.assemble_recipe(recipe.parse(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), progress=False)
"""


@pytest.mark.parametrize(("write", "done"), [(1, []), (4, ["first"]), (6, ["first", "second"])])
def test_killed_run_resumes(packages: Path, tmp_path: Path, write: int, done: list[str]) -> None:
    root, recipe = tmp_path / "root", tmp_path / "recipe.yaml"
    recipe.write_text(tiny_photos(packages))
    whole = assembled(recipe.read_text(), tmp_path / "whole")
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(write), str(recipe), str(root)], env=dict(os.environ)
    )
    assert run.returncode == -signal.SIGKILL
    manifest = root / "manifest.json"
    assert (list(json.loads(manifest.read_text())["packages"]) if manifest.exists() else []) == done
    for package in done:
        next(packages.glob(f"{package}-*")).unlink()  # what is done is not needed again
    assert assembled(recipe.read_text(), root).items == whole.items
    assert names(root) == names(tmp_path / "whole")


def test_changed_file_is_named(packages: Path, tmp_path: Path) -> None:
    text = tiny_photos(packages)
    corpus = assembled(text, tmp_path)
    file = corpus.path(corpus.items[2])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=file.name):
        assembled(text, tmp_path)


def test_lost_file_comes_back(packages: Path, tmp_path: Path) -> None:
    text = tiny_photos(packages)
    corpus = assembled(text, tmp_path)
    corpus.path(corpus.items[2]).unlink()
    again = assembled(text, tmp_path)
    assert sorted(item.file for item in again) == sorted(item.file for item in corpus)
    assert sha256_of(again.path(corpus.items[2])) == corpus.items[2].sha256


def test_other_recipe_replaces_the_files(packages: Path, tmp_path: Path) -> None:
    assembled(tiny_photos(packages), tmp_path)
    take = {"paths": ["*"], "split": "train"}
    corpus = assembled(
        recipe_text(source(packages, "new-1.tgz", tgz({"9.png": photograph(9)}), take)), tmp_path
    )
    assert names(tmp_path) == {item.file for item in corpus}
    assert len(corpus) == 1


def test_folder_of_another_corpus_is_refused(packages: Path, tmp_path: Path) -> None:
    text = tiny_photos(packages)
    assembled(text, tmp_path)
    with pytest.raises(ConfigError, match="holds the corpus 'tiny', not 'other'"):
        assembled(text.replace("name: tiny", "name: other"), tmp_path)


def test_broken_manifest_is_named(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"corpus": "tiny"')
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        assembled(tiny_photos(packages), tmp_path)


def test_full_disk_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    entry = {
        "name": "p",
        "version": "1",
        "client": "apt",
        "file": "p.deb",
        "sha256": "0",
        "licence": "",
        "take": [],
    }
    with pytest.raises(BudgetError, match=r"needs 1000000000\.0 GB"):
        assembled(recipe_text(entry, disk=10**18), tmp_path)


def test_clip_goes_to_splits_by_seconds(packages: Path, tmp_path: Path) -> None:
    files = {"film.mp4": clip(tmp_path / "film.mp4"), "walk.mp4": clip(tmp_path / "walk.mp4", 7)}
    text = recipe_text(
        source(
            packages,
            "clips-1.whl",
            zipped(files),
            {"paths": ["film.mp4"], "parts": {"train": [0, 1], "seen": [1.5, 2]}},
            {"paths": ["walk.mp4"], "split": "held-out"},
        ),
        medium="clips",
    )
    corpus = assembled(text, tmp_path / "root")
    found = [(item.split, item.start, item.end, item.frames) for item in corpus]
    assert found == [("train", 0, 1, 12), ("seen", 1.5, 2, 12), ("held-out", None, None, 7)]
    assert corpus.items[0].file == corpus.items[1].file
    with av.open(str(corpus.path(corpus.items[0]))) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (12, 64, 48)
    assert (corpus.items[0].width, corpus.items[0].height, corpus.items[0].fps) == (64, 48, 6)


def test_clip_that_is_none_is_named(packages: Path, tmp_path: Path) -> None:
    take = {"paths": ["*"], "split": "train"}
    text = recipe_text(source(packages, "clips-1.whl", zipped({"no.mp4": b"no clip"}), take), medium="clips")
    with pytest.raises(MediaError, match=r"clips-no-.*\.mp4"):
        assembled(text, tmp_path)


def test_split_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'held-out'"):
        Corpus(tmp_path).split("heldout")
