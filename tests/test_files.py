"""Clips and sound through token files, a few grids at a time, with a tiny tokenizer."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

import smalti
from smalti import codec, files, media
from tests.media.files import numbered, scene, with_sound
from tests.test_contracts import build


@pytest.fixture(scope="module")
def model():
    tokenizer = build("mosaic")
    tokenizer.chunk = 16  # grids: more than are decoded at once
    return tokenizer


@pytest.fixture(scope="module")
def long(model, tmp_path_factory) -> Path:
    """A token file of 70 frames: a full chunk of 16 grids, and a second with a padded end."""
    folder = tmp_path_factory.mktemp("long")
    media.write_clip(folder / "a.mp4", scene(70, 24, 32), fps=25)
    files.encode_file(folder / "a.mp4", folder / "a.smt", model)
    return folder / "a.smt"


def decoded(path: Path, model, start=None, end=None, quality=None) -> list[media.Chunk]:
    with codec.TokenFile.open(path) as file:
        return list(files.decoded(file, model, file.select(start, end), quality))


@pytest.mark.parametrize("quality", [1, None])
def test_a_few_grids_at_a_time_give_what_the_whole_gives(long, model, quality) -> None:
    chunks = decoded(long, model, quality=quality)
    whole = smalti.decode(smalti.load_tokens(long, quality=quality, tokenizer=model), model)
    assert max(chunk.pixels.shape[2] for chunk in chunks) == 4 * files.GRIDS
    assert torch.equal(torch.cat([chunk.pixels for chunk in chunks], 2), whole)
    assert sum((chunk.times for chunk in chunks), ()) == pytest.approx([i / 25 for i in range(70)])


@pytest.mark.parametrize(
    ("start", "end", "first", "last"), [(0.4, 0.8, 10, 20), (2.4, 2.6, 60, 65), (2.5, None, 62, 70)]
)
def test_a_part_gives_the_same_frames(long, model, start, end, first, last) -> None:
    whole = torch.cat([chunk.pixels for chunk in decoded(long, model)], 2)
    part = decoded(long, model, start, end)
    assert torch.equal(torch.cat([chunk.pixels for chunk in part], 2), whole[:, :, first:last])
    times = sum((chunk.times for chunk in part), ())
    assert times == pytest.approx([i / 25 for i in range(last - first)])


def test_no_grid_after_the_wanted_frames_is_decoded(long, model, monkeypatch) -> None:
    decoder = model.stream().decoder
    pushed = []
    push = type(decoder).push
    monkeypatch.setattr(
        type(decoder), "push", lambda self, tokens: (pushed.append(tokens.grid[0]), push(self, tokens))[1]
    )
    decoded(long, model, 0.0, 0.4)
    assert sum(pushed) == 4  # 13 frames, of which 10 are wanted


def sound_seconds(path: Path) -> tuple[float, float]:
    """When the sound of a file begins and ends."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    times = [float(packet.pts * packet.time_base) for packet in packets]
    return times[0], times[-1] + float(packets[-1].duration * packets[-1].time_base)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_cut_with_the_frames(tmp_path, model, suffix) -> None:
    source = with_sound(tmp_path / "a.mp4", seconds=2.0)
    files.encode_file(source, tmp_path / "a.smt", model, audio=True)
    whole = files.decode_file(tmp_path / "a.smt", tmp_path / f"whole{suffix}", model)
    assert sound_seconds(whole)[1] == pytest.approx(2.0, abs=0.2)
    part = files.decode_file(tmp_path / "a.smt", tmp_path / f"part{suffix}", model, start=1.0, end=1.6)
    begin, end = sound_seconds(part)
    assert (begin, end) == (pytest.approx(0, abs=0.13), pytest.approx(0.6, abs=0.15))
    back = media.read(part)
    assert back.times == pytest.approx([i / 25 for i in range(15)], abs=1e-3)


def test_a_part_after_the_end_of_the_sound_is_silent(tmp_path, model) -> None:
    sound = with_sound(tmp_path / "sound.mp4", seconds=0.5)
    media.write_clip(tmp_path / "a.mp4", numbered(30), fps=25, audio_from=sound)
    files.encode_file(tmp_path / "a.mp4", tmp_path / "a.smt", model, audio=True)
    part = files.decode_file(tmp_path / "a.smt", tmp_path / "b.mp4", model, start=0.9)
    with av.open(str(part)) as container:
        assert not container.streams.audio
    assert media.read(part).pixels.shape[2] == 8
