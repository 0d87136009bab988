import dataclasses

import pytest

from smalti.errors import UnsupportedError
from smalti.evaluation import classical as module
from smalti.evaluation.classical import classical
from smalti.evaluation.codecs import CODECS, Codec
from smalti.evaluation.dataset import dataset

from .makers import save_picture, scene


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path / "cache"))
    fewer = [dataclasses.replace(CODECS[name], settings=(20, 70)) for name in ("JPEG", "WebP")]
    monkeypatch.setattr(module, "codecs_for", lambda frames: fewer)
    return save_picture(scene(40, 56), tmp_path / "a.png")


def refuse(*_):
    raise UnsupportedError("this encoder is not here")


def as_text(curves):
    return repr(curves)  # NaN equals nothing, not even itself


def test_curves_are_measured_once(pictures, monkeypatch):
    first = classical(dataset(pictures))
    monkeypatch.setattr(Codec, "round_trip", refuse)
    assert as_text(classical(dataset(pictures))) == as_text(first)
    assert {(p.codec, p.setting) for p in first[0].means} == {
        ("JPEG", 20),
        ("JPEG", 70),
        ("WebP", 20),
        ("WebP", 70),
    }


def test_other_pictures_are_measured_anew(pictures):
    first, _ = classical(dataset(pictures))
    save_picture(scene(40, 56, seed=1), pictures)
    second, _ = classical(dataset(pictures))
    assert first.means[0].psnr != second.means[0].psnr


def test_codecs_that_are_missing_are_told(pictures, monkeypatch):
    monkeypatch.setattr(Codec, "round_trip", refuse)
    curves, missing = classical(dataset(pictures))
    assert curves.means == ()
    assert missing == ["this encoder is not here"] * 2
