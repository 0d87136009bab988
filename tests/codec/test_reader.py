import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from smalti.codec import Packed, Stamp, Tables, TokenFile, write
from smalti.errors import BudgetError, ConfigError, FormatError, IntegrityError

from .samples import SIZES, STAMP, TEMPORAL, forge, small_file, tokens


@pytest.fixture
def path(tmp_path):
    """Twelve latent frames in chunks of three: source frames 0-8, 9-20, 21-32, 33-44 at 25 a second."""
    write(tmp_path / "clip.smt", tokens(latents=12), STAMP, temporal=TEMPORAL, chunk=3)
    return tmp_path / "clip.smt"


def damage(path, name):
    """Overwrite all of a chunk."""
    raw = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(raw[:8], "little")
    start, stop = json.loads(raw[8:length])[name]["data_offsets"]
    raw[length + start : length + stop] = bytes(stop - start)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("start", "end", "unit", "chunks", "wanted"),
    [
        (None, None, "seconds", range(0, 4), range(0, 45)),
        (0, 0.04, "seconds", range(0, 1), range(0, 1)),
        (0.36, 0.84, "seconds", range(1, 2), range(9, 21)),
        (0.33, 0.37, "seconds", range(0, 2), range(8, 10)),
        (1.0, None, "seconds", range(2, 4), range(25, 45)),
        (None, 0.5, "seconds", range(0, 2), range(0, 13)),
        (1.79, 99, "seconds", range(3, 4), range(44, 45)),
        (20, 22, "frames", range(1, 3), range(20, 22)),
        (33, 1000, "frames", range(3, 4), range(33, 45)),
    ],
)
def test_a_range_touches_only_its_chunks(path, start, end, unit, chunks, wanted):
    whole = tokens(latents=12).ids.reshape(12, 6, 4)
    for other in set(range(4)) - set(chunks):
        damage(path, str(other))
    with TokenFile.open(path) as file:
        selection = file.select(start, end, unit)
        part = file.read(start, end, unit=unit)
    assert (selection.chunks, selection.wanted) == (chunks, wanted)
    assert selection.frames.start <= wanted.start < wanted.stop <= selection.frames.stop
    assert part.grid == (len(selection.latents), 3, 2)
    assert (part.source.first, part.source.frames) == (selection.frames.start, len(selection.frames))
    assert torch.equal(part.ids[0], whole[selection.latents.start : selection.latents.stop].reshape(-1, 4))


@pytest.mark.parametrize(
    ("start", "end", "unit"),
    [(5, 6, "seconds"), (1, 1, "seconds"), (-2, -1, "seconds"), (45, 50, "frames"), (-5, -1, "frames")],
)
def test_a_range_without_frames_is_refused(path, start, end, unit):
    with TokenFile.open(path) as file, pytest.raises(ConfigError, match="holds frames 0 to 44"):
        file.read(start, end, unit=unit)


def test_seconds_follow_the_times_of_frames(tmp_path):
    times = (-0.5, 0.0, 0.0, 1.0, 5.0, 5.5, 6.0, 7.0, 8.0)
    write(
        tmp_path / "c.smt",
        tokens(latents=3, frames=9, fps=None, times=times),
        STAMP,
        temporal=TEMPORAL,
        chunk=1,
    )
    with TokenFile.open(tmp_path / "c.smt") as file:
        assert file.select(4, 5).wanted == range(3, 4)  # the frame of second 1 stays until second 5
        assert file.select(-1, 0).wanted == range(0, 1)
        assert file.read(5.5, 6).source.times == times[5:9]
        assert file.info()["source"]["seconds"] == pytest.approx(9.25)


def test_a_picture_has_no_seconds(tmp_path):
    write(tmp_path / "photo.smt", tokens(latents=1, frames=1, fps=None), STAMP, temporal=TEMPORAL)
    with TokenFile.open(tmp_path / "photo.smt") as file, pytest.raises(ConfigError, match="by frames"):
        file.read(0, 1)


def test_lower_quality_reads_only_its_stages(path):
    raw = path.read_bytes()
    with TokenFile.open(path) as file:
        chunk = file.header.chunks[1]
        start = len(raw) - sum(sum(c.sizes) for c in file.header.chunks[1:])
    path.write_bytes(
        raw[: start + sum(chunk.sizes[:2])] + bytes(chunk.sizes[2]) + raw[start + sum(chunk.sizes) :]
    )
    with TokenFile.open(path) as file:
        assert torch.equal(file.read(quality=2).ids, tokens(latents=12).ids[..., :2])
        with pytest.raises(IntegrityError, match=r"stage 3 of chunk 1 .*source frames 9 to 20"):
            file.read()


@pytest.mark.parametrize("quality", [0, 4, -1])
def test_a_quality_that_is_not_there_is_refused(path, quality):
    with TokenFile.open(path) as file, pytest.raises(ConfigError, match="quality 1 to 3"):
        file.read(quality=quality)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "cosmos"},
        {"preset": "large"},
        {"fingerprint": "ff" * 8},
        {"codebook_sizes": (64, 64, 5, 999)},
    ],
)
def test_another_tokenizer_is_refused_by_both_names(path, change):
    other = dataclasses.replace(STAMP, **change)
    with TokenFile.open(path) as file:
        file.check(STAMP)
        file.check(other, force=True)
        with pytest.raises(ConfigError) as caught:
            file.check(other)
    for words in (STAMP.fingerprint, STAMP.preset, other.name, other.preset, other.fingerprint):
        assert words in str(caught.value)


class Reversed:
    """A tokenizer's own coder."""

    name = "reversed"

    def encode(self, ids, stages):
        return Packed(SIZES).encode(ids[::-1].copy(), stages)

    def decode(self, streams, shape, stages):
        return Packed(SIZES).decode(streams, shape, stages)[::-1].copy()


def test_a_tokenizer_brings_its_own_coder(tmp_path):
    path = small_file(tmp_path / "clip.smt", coder=Reversed())
    with TokenFile.open(path) as file:
        assert torch.equal(file.read(coder=Reversed()).ids, tokens().ids)
        for other, words in ((None, "'reversed' of mosaic"), (Tables(SIZES), "not 'tables'")):
            with pytest.raises(ConfigError, match=words):
                file.read(coder=other)


def test_an_id_that_no_codebook_holds_is_refused_by_place(tmp_path):
    path = small_file(tmp_path / "clip.smt", coder=Packed(SIZES))
    forge(path, tokenizer={"codebook_sizes": [64, 64, 5, 600]})
    clip = tokens()
    clip.ids[..., 3] = 10
    clip.ids[0, 14, 3] = 700  # the first token of row 1 of latent frame 2
    write(path, clip, STAMP, coder=Packed(SIZES), temporal=TEMPORAL, chunk=2)
    forge(path, tokenizer={"codebook_sizes": [64, 64, 5, 600]})
    with (
        TokenFile.open(path) as file,
        pytest.raises(FormatError, match=r"id 700 at \[t, h, w, q\] = \[2, 1, 0, 3\]"),
    ):
        file.read()


def test_a_long_read_is_refused_before_it_is_allocated(path):
    with TokenFile.open(path) as file:
        with pytest.raises(BudgetError, match="72 tokens of 4"):
            file.read(budget=287)
        assert len(file.read(budget=288)) == 72


def test_arrays_come_back_and_are_checked(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    damage(path, "audio")
    with TokenFile.open(path) as file:
        assert len(file.read()) == 36
        for call in (file.audio, file.verify):
            with pytest.raises(IntegrityError, match="array 'audio' was changed"):
                call()
        with pytest.raises(ConfigError, match="no array"):
            file.array("subtitles")


def test_a_file_without_audio_has_none(path):
    with TokenFile.open(path) as file:
        assert file.audio() is None


def test_opening_reads_no_tokens(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    for name in ("0", "1", "2", "audio", "times"):
        damage(path, name)
    with TokenFile.open(path) as file:
        assert file.header.source.frames == 21


def test_info_is_json_and_adds_up(tmp_path):
    path = small_file(tmp_path / "clip.smt")
    with TokenFile.open(path) as file:
        info = json.loads(json.dumps(file.info()))
    assert info["bytes"] == path.stat().st_size
    assert info["packed_bytes"] == 36 * (6 + 6 + 3 + 10) // 8 + 1
    assert info["coded_bytes"] == sum(info["bytes_per_stage"]) == sum(sum(c["sizes"]) for c in info["chunks"])
    assert info["bits_per_pixel"] == pytest.approx(8 * (info["bytes"] - 8) / (21 * 24 * 16))
    assert info["source"]["time_base"] == "1/30000"
    assert (info["quality"], info["qualities"], info["audio_bytes"], info["extra"]) == (
        3,
        3,
        8,
        {"Title": "é"},
    )


DECODE = """
import hashlib, sys
from smalti.codec import TokenFile
with TokenFile.open(sys.argv[1]) as file:
    print(hashlib.sha256(file.read().ids.numpy().tobytes()).hexdigest())
"""


def test_another_instruction_set_and_bare_environment_decode_the_same(tmp_path):
    clip = tokens(latents=16, rows=24, columns=24)
    clip.ids[0] = (torch.rand(16 * 24 * 24, 4) ** 3 * torch.tensor(SIZES)).long()
    write(tmp_path / "clip.smt", clip, STAMP, temporal=TEMPORAL)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        assert file.header.coder == "tables"
        assert file.info()["coded_bytes"] < file.info()["packed_bytes"]
    bare = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "LC_ALL": "C"}
    keep = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "SYSTEMROOT") if key in os.environ}
    command = [sys.executable, "-W", "ignore", "-c", DECODE, str(tmp_path / "clip.smt")]
    found = subprocess.run(command, env=keep | bare, cwd="/", capture_output=True, text=True, check=True)
    assert found.stdout.strip() == hashlib.sha256(clip.ids.numpy().tobytes()).hexdigest()


def test_codebooks_beyond_32_bits_come_back(tmp_path):
    stamp = Stamp("lookup-free", "default", "00", (1 << 40, 1 << 62), (2,))
    clip = tokens()
    clip = dataclasses.replace(
        clip, ids=torch.from_numpy(np.random.default_rng(0).integers(0, 1 << 40, (1, 36, 2)))
    )
    write(tmp_path / "clip.smt", clip, stamp, temporal=TEMPORAL)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        assert torch.equal(file.read().ids, clip.ids)
