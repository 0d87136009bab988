import gzip
import io
import json
import os
import pickle
import random
import struct
import zipfile

import pytest
import safetensors
import torch
from safetensors.torch import save

from smalti.codec import TokenFile
from smalti.codec.container import MAX_HEADER, PREFIX
from smalti.errors import FormatError, IntegrityError, SmaltiError, UnsupportedError

from .samples import forge, small_file


def read_everything(path):
    with TokenFile.open(path) as file:
        file.verify()
        tokens = file.read()
        return tokens.ids.tolist(), tokens.source, file.audio(), file.header.extra


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small_file(tmp_path_factory.mktemp("whole") / "clip.smt").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.smt"


def test_it_is_a_safetensors_file(tmp_path, whole):
    arrays = safetensors.deserialize(whole)
    assert [name for name, _ in sorted(arrays)] == ["0", "1", "2", "audio", "times"]
    assert all(array["dtype"] == "U8" for _, array in arrays)
    assert struct.unpack("<Q", whole[:8])[0] % 8 == 0


def test_the_same_tokens_give_the_same_bytes(path, whole):
    assert small_file(path).read_bytes() == whole


def test_every_flipped_byte_is_found(path, whole):
    path.write_bytes(whole)
    for position, byte in enumerate(whole):
        mask = 0x20 if chr(byte).isalpha() else 1 << position % 8  # 0x20 turns a into A
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(bytes([byte ^ mask]))
        with pytest.raises(IntegrityError):
            read_everything(path)
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(bytes([byte]))
    read_everything(path)


def test_other_white_space_and_order_in_the_header_are_found(path, whole):
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for text in (json.dumps(header), json.dumps(header, separators=(",", ":"), sort_keys=True)):
        text = text.encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        with pytest.raises(IntegrityError):
            TokenFile.open(path)


def test_truncation_at_every_byte_is_found(path, whole):
    path.write_bytes(whole)
    for size in reversed(range(len(whole))):
        os.truncate(path, size)
        with pytest.raises(
            FormatError, match="empty" if size == 0 else f"truncated: the file ends at byte {size}"
        ):
            TokenFile.open(path)


def test_bytes_after_the_end_are_found(path, whole):
    path.write_bytes(whole + b"!")
    with pytest.raises(FormatError, match="1 bytes follow the end"):
        TokenFile.open(path)


def test_a_thousand_corruptions_are_refused(path, whole):
    good = None
    for seed in range(1000):
        chance = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8, 64))):
            place, kind = chance.randrange(len(damaged)), chance.randrange(4)
            if kind == 0:
                damaged[place] = chance.randrange(256)
            elif kind == 1:
                del damaged[place : place + chance.randrange(1, 20)]
            elif kind == 2:
                damaged[place:place] = chance.randbytes(chance.randrange(1, 20))
            else:
                damaged[place : place + 8] = bytes(8)
            damaged = damaged or bytearray(b"?")
        path.unlink(missing_ok=True)
        path.write_bytes(damaged)
        try:
            found = read_everything(path)
        except SmaltiError:
            continue
        path.write_bytes(whole)
        good = good or read_everything(path)
        assert found == good, f"seed {seed} is silently wrong"


def foreign():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", pickle.dumps(1))
    checkpoint = io.BytesIO()
    torch.save({"a": torch.ones(2)}, checkpoint)
    return {
        "the file is empty": b"",
        "a pickle": pickle.dumps({"a": list(range(9))}),
        "a zip archive": archive.getvalue(),
        "zip archive, perhaps of pickles": checkpoint.getvalue(),
        "a 7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(50),
        "compressed by gzip": gzip.compress(b"tokens of a clip"),
        "a safetensors file, but not of tokens": save({"weight": torch.ones(4)}),
        "a video": b"\0\0\0 ftypisom" + bytes(50),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "does not begin as": b"just a text of somebody",
    }


@pytest.mark.parametrize("words", foreign())
def test_other_files_are_refused_by_kind(path, words):
    path.write_bytes(foreign()[words])
    with pytest.raises(FormatError, match=words):
        TokenFile.open(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        TokenFile.open(tmp_path / "none.smt")
    with pytest.raises(FormatError, match="Is a directory"):
        TokenFile.open(tmp_path)


def test_a_header_larger_than_allowed_is_refused_before_it_is_read(path):
    length = MAX_HEADER + 1
    path.write_bytes(length.to_bytes(8, "little") + PREFIX + b"00000000%08x" % length + bytes(200))
    with pytest.raises(FormatError, match="are allowed"):
        TokenFile.open(path)


def test_a_newer_major_version_names_what_it_needs(path):
    forge(small_file(path), format="smalti-tokens 2.0", header="nothing that this version reads")
    with pytest.raises(UnsupportedError, match=r"version 2\.0.*reads version 2"):
        TokenFile.open(path)


@pytest.mark.parametrize("version", ["smalti-tokens", "smalti-tokens 1", "smalti-tokens 1.x", "tokens 1.0"])
def test_a_version_that_is_none_is_refused(path, version):
    forge(small_file(path), format=version)
    with pytest.raises(FormatError, match=r"MAJOR\.MINOR"):
        TokenFile.open(path)


def test_a_newer_minor_version_is_read(path):
    forge(small_file(path), format="smalti-tokens 1.7", tokens={"palette": "warm"}, future='{"x": 1}')
    with TokenFile.open(path) as file:
        file.verify()
        assert file.header.version == (1, 7)
        assert len(file.read()) == 36
