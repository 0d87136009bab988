import pytest

from smalti.codec import TokenFile, trim, write
from smalti.codec.container import read_front
from smalti.codec.sections import unpack_sections
from smalti.errors import ConfigError, IntegrityError

from .samples import STAMP, TEMPORAL, forge, small_file, tokens


@pytest.mark.parametrize(("quality", "codes"), [(1, 1), (2, 2), (3, 4)])
def test_a_trimmed_file_is_the_file_of_the_lower_quality(tmp_path, quality, codes):
    options = {"chunk": 4, "temporal": TEMPORAL, "audio": b"sound", "extra": {"a": 1}}
    write(tmp_path / "high.smt", tokens(), STAMP, **options)
    write(tmp_path / "low.smt", tokens().codebooks(codes), STAMP, **options)
    trim(tmp_path / "high.smt", tmp_path / "cut.smt", quality)
    assert (tmp_path / "cut.smt").read_bytes() == (tmp_path / "low.smt").read_bytes()


def test_a_file_may_be_trimmed_in_place(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    trim(path, path, 1)
    with TokenFile.open(path) as file:
        file.verify()
        assert file.header.quality == 1
        assert file.read().ids.shape == (1, 36, 1)


@pytest.mark.parametrize("quality", [0, 4])
def test_a_quality_that_is_not_there_is_refused(tmp_path, quality):
    with pytest.raises(ConfigError, match="quality 1 to 3"):
        trim(small_file(tmp_path / "clip.smt"), tmp_path / "cut.smt", quality)
    assert not (tmp_path / "cut.smt").exists()


def test_fields_of_newer_versions_are_kept(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    newer = {"tokens": {"palette": "warm"}, "chunks": lambda chunks: [c | {"scene": 7} for c in chunks]}
    newer |= {"arrays": lambda arrays: {k: a | {"language": "la"} for k, a in arrays.items()}}
    forge(path, format="smalti-tokens 1.9", future='{"x": 1}', **newer)
    forge(path, lights={"on": True})
    trim(path, tmp_path / "cut.smt", 2)
    metadata = read_front(tmp_path / "cut.smt").metadata
    assert (metadata["format"], metadata["future"]) == ("smalti-tokens 1.9", '{"x": 1}')
    sections = unpack_sections(metadata)
    assert (sections["tokens"]["palette"], sections["lights"]) == ("warm", {"on": True})
    assert all(chunk["scene"] == 7 for chunk in sections["chunks"])
    assert all(array["language"] == "la" for array in sections["arrays"].values())


def test_a_damaged_stage_is_refused_only_if_it_is_kept(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    raw = bytearray(path.read_bytes())
    with TokenFile.open(path) as file:
        first, *_ = file.header.chunks
    raw[8 + int.from_bytes(raw[:8], "little") + sum(first.sizes) - 1] ^= 1  # in the first chunk's last stage
    path.write_bytes(raw)
    trim(path, tmp_path / "cut.smt", 2)
    with pytest.raises(IntegrityError):
        trim(path, tmp_path / "whole.smt", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.smt", "cut.smt"]
