import base64
import random
import zlib

import pytest
import torch

from smalti.codec import Stamp, TokenFile, trim, write
from smalti.codec.container import read_front, write_container
from smalti.codec.header import DENSEST, FREE_CODES
from smalti.codec.sections import DICTIONARY, MAX_JSON, pack_sections, unpack_sections
from smalti.errors import BudgetError, ConfigError, FormatError, SmaltiError
from smalti.registry import create
from smalti.tokens import Source, Tokens

from .samples import STAMP, forge, small_file, tokens


@pytest.fixture
def path(tmp_path):
    return small_file(tmp_path / "clip.smt")


def chunk_with(index, **fields):
    return lambda chunks: [c | fields if i == index else c for i, c in enumerate(chunks)]


def packed(text: bytes) -> str:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return base64.b64encode(deflate.compress(text) + deflate.flush()).decode()


LIES = {
    "no quality": (
        {"tokens": lambda t: {k: v for k, v in t.items() if k != "quality"}},
        "quality' is missing",
    ),
    "section": ({"source": lambda s: []}, "'source' must be an object"),
    "no section": ({"header": packed(b'{"source":{}}')}, "'tokenizer' is missing"),
    "list": ({"header": packed(b"[]")}, "'header' must hold an object"),
    "not base64": ({"header": "ä"}, "'header' is no packed JSON"),
    "not packed": ({"header": "{}{}"}, "'header' is no packed JSON"),
    "not JSON": ({"header": packed(b"{")}, "'header' is no packed JSON"),
    "cut": ({"header": packed(b"{}" * 99)[:4]}, "'header' ends early or late"),
    "more": ({"header": base64.b64encode(base64.b64decode(packed(b"{}")) + b"x").decode()}, "early or late"),
    "bomb": ({"header": packed(b" " * (MAX_JSON + 1))}, "unpacks to more than"),
    "deep": ({"header": packed(b"[" * 100_000)}, "'header' is no packed JSON"),
    "long number": ({"header": packed(b'{"a":' + b"9" * 5000 + b"}")}, "'header' is no packed JSON"),
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
    "gap": ({"chunks": chunk_with(1, latents=3)}, "chunks hold 7 latent frames and 21 source frames"),
    "overlap": ({"chunks": chunk_with(1, frames=4)}, "chunks hold 6 latent frames and 17 source frames"),
    "checksum": ({"chunks": chunk_with(1, crc="0" * 23)}, "eight hexadecimal digits"),
    "checksums": ({"chunks": chunk_with(1, crc="0" * 16)}, "bytes and crc of 3 stages"),
    "two of one": ({"arrays": {"audio": {"bytes": 8, "crc": "0" * 16}}}, "'arrays.audio.crc' must hold one"),
    "negative": ({"chunks": chunk_with(0, frames=-5)}, "frames' must hold 0 to"),
    "chunk bytes": ({"chunks": chunk_with(0, bytes=[1, 2, 3])}, "'0' is not in the file as"),
    "no chunks": ({"chunks": lambda c: 5}, "'chunks' must be a list"),
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
    sections = unpack_sections(metadata)
    place = sections[chance.choice(list(sections))]
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return {}
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
            place[key] = chance.choice(STRANGE)
            return {"header": pack_sections(sections)}
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
    with TokenFile.open(path) as file:
        held = sum(sum(c.sizes) for c in file.header.chunks) + sum(
            size for size, _ in file.header.arrays.values()
        )
    most = FREE_CODES + DENSEST * held  # codes; a token has four
    forge(path, tokens={"shape": [6, most // 24 + 1, 1]})
    with pytest.raises(FormatError, match="cannot be honest"):
        TokenFile.open(path)
    forge(path, tokens={"shape": [6, most // 24, 1]})
    with TokenFile.open(path) as file, pytest.raises(FormatError, match="chunk 0"):
        file.read()


def test_a_constant_grid_is_filled_up_to_what_a_reader_accepts(tmp_path):
    clip = tokens(latents=40, rows=64, columns=64)
    clip.ids[:] = 3
    write(tmp_path / "clip.smt", clip, STAMP)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        file.verify()
        assert file.array("filler") == bytes(len(file.array("filler")))
        assert (file.read().ids == clip.ids).all()
    trim(tmp_path / "clip.smt", tmp_path / "cut.smt", 2)
    write(tmp_path / "low.smt", clip.codebooks(2), STAMP)
    assert (tmp_path / "cut.smt").read_bytes() == (tmp_path / "low.smt").read_bytes()


def test_a_header_without_its_sections_is_refused(path):
    metadata = {k: v for k, v in read_front(path).metadata.items() if k not in ("seal", "header")}
    write_container(path, metadata, [], [])
    with pytest.raises(FormatError, match="encode it again"):
        TokenFile.open(path)


def test_what_is_usual_is_left_out(tmp_path):
    picture = tokens(latents=1, frames=1, fps=None)
    write(tmp_path / "photo.smt", picture, STAMP)
    sections = unpack_sections(read_front(tmp_path / "photo.smt").metadata)
    assert list(sections) == ["tokenizer", "source", "tokens", "chunks"]
    assert list(sections["source"]) == ["height", "width"]
    assert list(sections["tokens"]) == ["shape", "quality", "coder"]


def test_the_header_of_a_picture_is_short(tmp_path):
    model = create("mosaic")
    stamp = Stamp("mosaic", "default", "ff35aaeb05b16b36", model.codebook_sizes, model.stages)
    ids = torch.stack([torch.randint(0, size, (51 * 90,)) for size in stamp.codebook_sizes], -1)
    picture = Tokens(ids=ids[None], grid=(1, 51, 90), source=Source(405, 720, pad=(0, 3, 0)))
    write(tmp_path / "photo.smt", picture, stamp, temporal=(1, 4))
    with TokenFile.open(tmp_path / "photo.smt") as file:
        assert (tmp_path / "photo.smt").stat().st_size - sum(file.header.chunks[0].sizes) <= 350


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
