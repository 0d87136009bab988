import dataclasses
import tracemalloc
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codec import Packed, Stamp, Tables, TokenFile, TokenWriter, write
from smalti.errors import BudgetError, ConfigError, FormatError
from smalti.tokens import Source, Tokens

from .samples import SIZES, STAMP, TEMPORAL, tokens


def read(path, **options):
    with TokenFile.open(path) as file:
        file.verify()
        return file.read(**options)


SIDES, PADS = st.integers(1, 9000), st.integers(0, 15)


@given(
    sizes=st.lists(st.integers(1, 1 << 40), min_size=1, max_size=4),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    temporal=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    size=st.tuples(SIDES, SIDES),
    fps=st.none() | st.floats(0.01, 1000),
    pad=st.tuples(PADS, PADS, PADS),
    first=st.integers(0, 1 << 40),
    coder=st.sampled_from([Packed, Tables]),
    data=st.data(),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_any_clip_comes_back(tmp_path_factory, sizes, grid, temporal, size, fps, pad, first, coder, data):
    stages = tuple(sorted(data.draw(st.sets(st.integers(1, len(sizes)))) | {len(sizes)}))
    stamp = Stamp("any", "default", "f" * 16, tuple(sizes), stages)
    kept = sizes[: data.draw(st.sampled_from(stages))]
    frames = data.draw(st.integers(1, temporal[0] + temporal[1] * (grid[0] - 1)))
    seconds = st.lists(st.floats(-10, 1e5), min_size=frames, max_size=frames).map(tuple)
    times = data.draw(st.none() | seconds)
    source = Source(*size, frames=frames, first=first, fps=fps, times=times, pad=pad)
    ids = torch.stack([torch.randint(0, size, (1, prod(grid))) for size in kept], -1)
    clip = Tokens(ids=ids, grid=grid, source=source)
    path = tmp_path_factory.mktemp("clip") / "clip.smt"
    chunk = data.draw(st.integers(1, 10))
    write(path, clip, stamp, temporal=temporal, chunk=chunk, coder=coder(stamp.codebook_sizes))
    back = read(path)
    assert torch.equal(back.ids, clip.ids)
    assert (back.grid, back.source) == (clip.grid, clip.source)


def test_a_picture_comes_back(tmp_path):
    picture = tokens(latents=1, frames=1, fps=None)
    write(tmp_path / "photo.smt", picture, STAMP, temporal=TEMPORAL)
    back = read(tmp_path / "photo.smt")
    assert torch.equal(back.ids, picture.ids)
    assert back.source == picture.source


@pytest.mark.parametrize("parts", [[6], [1, 5], [2, 2, 2], [5, 1], [1] * 6])
def test_appending_gives_the_same_file_as_writing_at_once(tmp_path, parts):
    times = tuple(float(i) for i in range(21))
    whole = tokens(times=times, pad=(0, 1, 2))
    write(tmp_path / "whole.smt", whole, STAMP, temporal=TEMPORAL, chunk=4)
    with TokenWriter(tmp_path / "parts.smt", STAMP, temporal=TEMPORAL, chunk=4) as writer:
        latent = frame = 0
        for latents in parts:
            frames = 4 * latents - (3 if latent == 0 else 0)
            source = dataclasses.replace(whole.source, frames=frames, times=times[frame : frame + frames])
            part = whole[latent * 6 : (latent + latents) * 6]
            writer.append(dataclasses.replace(part, grid=(latents, 3, 2), source=source))
            latent, frame = latent + latents, frame + frames
    assert (tmp_path / "parts.smt").read_bytes() == (tmp_path / "whole.smt").read_bytes()


def test_memory_does_not_grow_with_length(tmp_path):
    def peak(parts):
        part = tokens(latents=8, rows=16, columns=16, frames=32)
        tracemalloc.start()
        with TokenWriter(tmp_path / "long.smt", STAMP, temporal=(4, 4), chunk=8) as writer:
            writer._spool._max_size = 1 << 14
            for _ in range(parts):
                writer.append(part)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(4)  # imports and caches
    short, long = peak(4), peak(40)
    assert long < 1.3 * short
    assert (tmp_path / "long.smt").stat().st_size > 200_000


def test_without_temporal_one_chunk_holds_all(tmp_path):
    write(tmp_path / "clip.smt", tokens(), STAMP, chunk=2)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        assert len(file.header.chunks) == 1
        assert file.header.chunks[0].frames == 21


def test_chunks_of_padding_hold_no_frames(tmp_path):
    clip = tokens(latents=6, frames=6, pad=(15, 0, 0))
    write(tmp_path / "clip.smt", clip, STAMP, temporal=TEMPORAL, chunk=1)
    with TokenFile.open(tmp_path / "clip.smt") as file:
        assert [c.frames for c in file.header.chunks] == [1, 4, 1, 0, 0, 0]
        assert torch.equal(file.read().ids, clip.ids)
        assert file.read(0, 1, unit="frames").source.pad == (0, 0, 0)
        assert file.read(5, 6, unit="frames").source.pad == (15, 0, 0)


def test_tokens_on_no_grid_keep_their_places_and_mass(tmp_path):
    clip = tokens()
    loose = Tokens(ids=clip.ids, coords=torch.rand(1, 36, 3), mass=torch.rand(1, 36), source=clip.source)
    write(tmp_path / "loose.smt", loose, STAMP, temporal=TEMPORAL)
    back = read(tmp_path / "loose.smt")
    assert back.grid is None
    assert all(torch.equal(getattr(back, name), getattr(loose, name)) for name in ("ids", "coords", "mass"))


@pytest.mark.parametrize(
    ("precision", "dtype"), [(None, torch.bfloat16), ("float16", torch.float16), ("int8", torch.float32)]
)
def test_continuous_latents_come_back(tmp_path, precision, dtype):
    values = torch.randn(1, 24, 8).bfloat16()
    clip = Tokens(values=values, grid=(6, 2, 2), source=Source(16, 16, 21, fps=25.0))
    stamp = Stamp("vae", "default", "00")
    write(tmp_path / "clip.smt", clip, stamp, temporal=TEMPORAL, chunk=4, precision=precision)
    back = read(tmp_path / "clip.smt")
    assert back.values.dtype == dtype
    assert (back.values.float() - values.float()).abs().max() <= (0.02 if precision == "int8" else 0)


def test_other_integer_types_come_back_as_int64(tmp_path):
    clip = tokens()
    write(tmp_path / "clip.smt", dataclasses.replace(clip, ids=clip.ids.int()), STAMP)
    assert torch.equal(read(tmp_path / "clip.smt").ids, clip.ids)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: Tokens(ids=t.ids.repeat(2, 1, 1), source=t.source), ConfigError, "batch of 2"),
        (lambda t: dataclasses.replace(t, source=None), ConfigError, "without source"),
        (lambda t: dataclasses.replace(t, mask=torch.arange(36)[None] < 30), ConfigError, "mask"),
        (lambda t: dataclasses.replace(t, ids=t.ids[..., :3]), ConfigError, "no quality of mosaic.*1, 2, 4"),
        (lambda t: tokens(frames=22), ConfigError, "stand for 21 frames, but the source has 22"),
        (lambda t: tokens(frames=21, times=(0.0,)), ConfigError, "21 frames but 1 times"),
        (lambda t: tokens(frames=1 << 25), BudgetError, "33554432 frames"),
    ],
)
def test_what_no_file_can_hold_is_refused(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "clip.smt", change(tokens()), STAMP, temporal=TEMPORAL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [-1, SIZES[2], 1 << 40])
def test_an_id_outside_its_codebook_is_refused_by_place(tmp_path, bad):
    clip = tokens()
    clip.ids[0, 17, 2] = bad  # latent frame 2, row 2, column 1
    with pytest.raises(FormatError, match=rf"id {bad} at \[t, h, w, q\] = \[2, 2, 1, 2\] is outside 0\.\.4"):
        write(tmp_path / "clip.smt", clip, STAMP)


def test_parts_that_do_not_follow_are_refused(tmp_path):
    def append(*parts):
        with TokenWriter(tmp_path / "clip.smt", STAMP) as writer:
            for part in parts:
                writer.append(part)

    timed = tokens(times=tuple(map(float, range(21))))
    for other in (tokens(rows=2), timed, dataclasses.replace(tokens(), grid=None)):
        with pytest.raises(ConfigError, match="cannot follow"):
            append(tokens(), other)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_raises_or_writes_nothing_leaves_no_file(tmp_path):
    def fail():
        with TokenWriter(tmp_path / "clip.smt", STAMP) as writer:
            writer.append(tokens())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ConfigError, match="append some"), TokenWriter(tmp_path / "clip.smt", STAMP):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"chunk": 0}, {"temporal": (0, 4)}, {"temporal": (1, 0)}])
def test_options_that_mean_nothing_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match="at least one"):
        write(tmp_path / "clip.smt", tokens(), STAMP, **options)
