import json
import random

import pytest

from smalti.codec import Stamp, TokenFile, write
from smalti.codec.container import read_front
from smalti.errors import BudgetError, ConfigError, FormatError, SmaltiError

from .samples import STAMP, forge, small_file, tokens


@pytest.fixture
def path(tmp_path):
    return small_file(tmp_path / "clip.smt")


def chunk_with(index, **fields):
    return lambda chunks: [c | fields if i == index else c for i, c in enumerate(chunks)]


LIES = {
    "no quality": (
        {"tokens": lambda t: {k: v for k, v in t.items() if k != "quality"}},
        "quality' is missing",
    ),
    "section": ({"source": "[]"}, "'source' must be an object"),
    "not JSON": ({"source": "{"}, "'source' is not JSON"),
    "deep": ({"source": "[" * 100_000}, "'source' is not JSON"),
    "long number": ({"tokens": '{"shape":[' + "9" * 5000 + ",1,1]}"}, "'tokens' is not JSON"),
    "text": ({"tokenizer": {"name": 5}}, "'tokenizer.name' must be a text"),
    "float": ({"tokens": {"quality": 1.0}}, "'tokens.quality' must hold 1 to 3"),
    "bool": ({"tokens": {"quality": True}}, "'tokens.quality' must hold 1 to 3"),
    "more stages": ({"tokens": {"quality": 4}}, "'tokens.quality' must hold 1 to 3"),
    "other stages": ({"tokens": {"quality": 2}}, "bytes and crc of 2 stages"),
    "huge grid": ({"tokens": {"shape": [6, 10**12, 2]}}, "'tokens.shape' must hold 1 to"),
    "flat grid": ({"tokens": {"shape": [6, 6]}}, "list of 3"),
    "empty grid": ({"tokens": {"shape": [6, 0, 2]}}, "must hold 1 to"),
    "more latents": ({"tokens": {"shape": [7, 3, 2]}}, "the header claims 7"),
    "frames": ({"source": {"frames": 22}}, "chunks hold 6 latent frames and 21 source frames"),
    "rate": ({"source": {"fps": -1}}, "positive number"),
    "rate as text": ({"source": {"fps": "25"}}, "positive number"),
    "codebooks": ({"tokenizer": {"codebook_sizes": [2**63] * 4}}, "codebook_sizes' must hold 1 to"),
    "stages": ({"tokenizer": {"stages": [4, 2, 4]}}, "must rise"),
    "gap": ({"chunks": chunk_with(1, latent=3)}, "chunk 1 starts at latent 3"),
    "overlap": ({"chunks": chunk_with(1, frame=4)}, "chunk 1 starts at latent 2 and frame 4"),
    "negative": ({"chunks": chunk_with(0, frames=-5)}, "frames' must hold 0 to"),
    "chunk bytes": ({"chunks": chunk_with(0, bytes=[1, 2, 3])}, "'chunk.000000' is not in the file as"),
    "no chunks": ({"chunks": "5"}, "'chunks' must be a list"),
    "no array": (
        {"arrays": lambda a: {k: v for k, v in a.items() if k != "audio"}},
        "'audio' is not in the file as",
    ),
    "no times": ({"arrays": lambda a: {k: v for k, v in a.items() if k != "times"}}, "'times' must take"),
    "times": (
        {"source": {"times": {"kind": "ticks", "first": 0, "step": 0, "bits": 50}}},
        "'times' must take",
    ),
    "kind": ({"source": {"times": {"kind": "sundial"}}}, "'ticks' or 'float64'"),
    "precision": ({"tokens": {"precision": "float8", "quality": 1, "dim": 3}}, "stages|one of float32"),
    "coder": ({"tokens": {"coder": None}}, "'tokens.coder' must be a text"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_by_key(path, lie):
    sections, message = LIES[lie]
    with pytest.raises(FormatError, match=message) as caught:
        TokenFile.open(forge(path, **sections))
    assert str(path) in str(caught.value)


STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    1e308,
    "",
    "x",
    [],
    [1],
    [0, 0, 0],
    [2**53] * 3,
    {},
    {"kind": "ticks"},
)


def strange_header(metadata, chance):
    """One value somewhere in the header exchanged for another."""
    name = chance.choice([key for key in metadata if key not in ("seal", "format")])
    place = section = json.loads(metadata[name])
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return {}
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
            place[key] = chance.choice(STRANGE)
            return {name: json.dumps(section)}
        place = place[key]


def test_a_thousand_strange_headers_are_refused_or_mean_something(tmp_path, path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a thousand of them take half a minute
    refused, strange = 0, tmp_path / "strange.smt"
    for seed in range(1000):
        strange.unlink(missing_ok=True)
        strange.write_bytes(path.read_bytes())
        forge(strange, **strange_header(read_front(strange).metadata, random.Random(seed)))
        try:
            with TokenFile.open(strange) as file:
                file.verify()
                file.info()
                file.read(0, 0.2, budget=1 << 16)
        except SmaltiError:
            refused += 1
    assert refused > 700


def test_too_many_frames_are_refused_before_they_are_allocated(path):
    forge(path, source={"frames": 1 << 40})
    with pytest.raises(BudgetError, match="1099511627776 frames"):
        TokenFile.open(path)


def test_a_grid_larger_than_its_bytes_is_refused_before_it_is_allocated(path):
    forge(path, tokens={"shape": [6, 1 << 20, 1 << 20]})
    with TokenFile.open(path) as file, pytest.raises(BudgetError, match="shorter range"):
        file.read()


def test_a_packed_grid_that_lies_is_refused(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    forge(path, tokens={"shape": [6, 3, 4], "coder": "packed"})
    with TokenFile.open(path) as file, pytest.raises(FormatError, match="chunk 0: stream"):
        file.read()


@pytest.mark.parametrize(
    ("sizes", "stages"),
    [((4, 4), (1,)), ((4, 4), (2, 1, 2)), ((4, 4), ()), ((0, 4), (2,)), ((4, 1 << 63), (2,))],
)
def test_a_stamp_that_contradicts_itself_is_refused(sizes, stages):
    with pytest.raises(ConfigError):
        Stamp("mosaic", "small", "00", sizes, stages)


@pytest.mark.parametrize("extra", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_extra_that_json_cannot_hold_is_refused(tmp_path, extra):
    with pytest.raises(ConfigError, match="cannot hold"):
        write(tmp_path / "clip.smt", tokens(), STAMP, extra=extra)
    assert list(tmp_path.iterdir()) == []


def test_extra_comes_back(tmp_path):
    extra = {"title": "Straße \ud800 \u0000", "list": [1, 2.5, None, {"deep": True}]}
    write(tmp_path / "clip.smt", tokens(), STAMP, extra=extra)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        assert file.header.extra == extra
