"""`smalti weights`, `smalti reduce` and `smalti audit` as a user meets them, with a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from smalti.evaluation.pretrained import PRETRAINED
from tests.evaluation.audit.made import pictures, tiny
from tests.evaluation.test_pretrained import published  # noqa: F401


@pytest.fixture
def named(tmp_path, monkeypatch):
    """The model `tiny` and a folder of two classes of pictures."""
    monkeypatch.setattr(
        "smalti.evaluation.pretrained.load_model", lambda name, weights, depth: tiny(depth=depth or 3)
    )
    made = pictures(6)
    for place, (pixels, label) in enumerate(zip(made.pixels, made.labels, strict=True)):
        folder = tmp_path / "made" / made.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_lists_fetches_and_tells(run, published) -> None:  # noqa: F811
    code, out, _ = run("weights")
    assert code == 0
    assert all(name in out for name in PRETRAINED)
    code, out, _ = run("weights", "tiny", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["parameters"] == sum(p.numel() for p in published[0].parameters())
    assert told["file"].endswith(".safetensors")
    published[1].unlink()
    assert run("weights", "tiny")[0] == 0, "a second call needs nothing but the cache"
    listed = {one["name"]: one for one in json.loads(run("weights", "--json")[1])}
    assert listed["tiny"]["file"] == told["file"]
    code, _, err = run("weights", "tini")
    assert code == 2
    assert "'tiny'" in err


def test_a_changed_package_ends_with_the_code_of_integrity(run, published) -> None:  # noqa: F811
    published[1].write_bytes(b"something else")
    code, _, err = run("weights", "tiny")
    assert code == 4
    assert "SHA-256" in err


def test_reduce_tells_and_draws(run, named) -> None:
    code, out, err = run(
        "reduce", "made", "--model", "tiny", "--reducer", "random", "--keep", "0.5", "--overlay", "o"
    )
    assert (code, err) == (0, "")
    assert "13 9 9" in out
    assert out.count("cosine to the full model") == 6
    drawn = sorted((named / "o").rglob("*.png"))
    assert len(drawn) == 6
    before = Image.open(named / "made" / "bright" / "0.png").resize((448, 448), Image.Resampling.BICUBIC)
    after = Image.open(named / "o" / "bright" / "0.png")
    assert np.asarray(after, float).mean() < 0.85 * np.asarray(before, float).mean(), "half of it is darkened"


def test_reduce_as_json(run, named) -> None:
    told = json.loads(run("reduce", "made/bright/0.png", "--model", "tiny", "--keep", "1", "--json")[1])
    assert told["counts"] == [17, 17, 17]
    assert told["gflops"] == told["full_gflops"]
    assert list(told["cosines"].values()) == [pytest.approx(1)]


def test_audit_writes_its_page(run, named) -> None:
    asked = "audit made --model tiny --reducers uniform --depth 2 --repeats 1 --threads 1 --limit 4 -o page"
    code, out, err = run(*asked.split())
    assert (code, err) == (0, "")
    assert "GFLOPs" in out
    assert "probe" in out
    assert {path.name for path in (named / "page").iterdir()} == {"audit.json", "curves.svg", "index.html"}
    written = json.loads((named / "page" / "audit.json").read_text())
    assert written["run"]["data"]["classes"] == ["bright", "dark"]
    assert written["model"]["blocks"] == 2
    assert len(written["rows"]) == 1 + 4


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--keep", "0.5,0.3"), 2, "4 budgets"),
        (("--keep", "half"), 2, "numbers with commas"),
        (("--reducers", "tomee"), 2, "'tome'"),
        (("--repeats", "0"), 2, "repeats"),
        (("--threads", "0"), 2, "threads"),
        (("--size", "33"), 2, "multiple"),
    ],
)
def test_audit_refuses_in_one_line(run, named, options, code, message) -> None:
    ended, _, err = run("audit", "made", "--model", "tiny", *options)
    assert ended == code
    assert message in err
    assert len(err.splitlines()) == 1
