from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from smalti import media
from smalti.errors import BudgetError, ConfigError, MediaError
from tests.media.files import (
    eight_bits,
    encode,
    faststart_clip,
    numbered,
    numbers,
    plain_read,
    psnr,
    scene,
    with_sound,
    written,
)


def test_all_frames_equal_those_of_ffmpeg(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(10, 48, 64)))
    whole = media.read(path)
    reference = torch.from_numpy(plain_read(path)).permute(3, 0, 1, 2)[None] / 255
    assert whole.pixels.shape == (1, 3, 10, 48, 64)
    assert psnr(whole.pixels, reference) > 40
    assert whole.times == pytest.approx([i / 25 for i in range(10)])
    assert whole.fps == 25
    assert (whole.info.frames, whole.info.codec, whole.info.kind) == (10, "h264", "clip")


def test_size_is_given_in_the_same_pass(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(4, 96, 128)))
    small = media.read(path, size=(24, 40)).pixels
    reference = torch.nn.functional.interpolate(
        media.read(path).pixels[0].transpose(0, 1), size=(24, 40), mode="area"
    ).transpose(0, 1)[None]
    assert small.shape == (1, 3, 4, 24, 40)
    assert psnr(small, reference) > 30


def test_chunks_are_the_whole(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(10, 48, 64)))
    whole = media.read(path)
    with media.open_clip(path) as clip:
        chunks = list(clip.chunks(4))
    assert [len(chunk.times) for chunk in chunks] == [4, 4, 2]
    assert torch.equal(torch.cat([chunk.pixels for chunk in chunks], 2), whole.pixels)
    assert sum((chunk.times for chunk in chunks), ()) == whole.times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("how", [{"frames": 4}, {"frames": 1}, {"start": 0.4, "end": 0.8}, {"fps": 5}])
def test_a_sample_equals_the_same_frames_of_the_whole(tmp_path, suffix, how) -> None:
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    path = encode(tmp_path / f"a{suffix}", eight_bits(numbered(28)), codec=codec, options={"g": "6"})
    whole = media.read(path)
    assert numbers(whole.pixels) == list(range(28))
    sample = media.read(path, **how)
    expected = {
        "frames": {4: [3, 10, 17, 24], 1: [14]}.get(how.get("frames", 0)),
        "start": list(range(10, 20)),
        "fps": [0, 5, 10, 15, 20, 25],
    }[next(iter(how))]
    assert numbers(sample.pixels) == expected
    assert torch.equal(sample.pixels, whole.pixels[:, :, expected])
    assert sample.times == pytest.approx([i / 25 for i in expected], abs=1e-3)


def test_a_faster_rate_repeats_frames(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(numbered(5)))
    sample = media.read(path, fps=50)
    assert numbers(sample.pixels) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sample.fps == 50


def test_sparse_frames_decode_only_their_groups(tmp_path, monkeypatch) -> None:
    from smalti.media import clips

    path = encode(tmp_path / "a.mp4", eight_bits(numbered(28)), options={"g": "7", "sc_threshold": "0"})
    groups = []
    real = clips.ClipSource._group
    monkeypatch.setattr(clips.ClipSource, "_group", lambda self, *a: (groups.append(a[2]), real(self, *a))[1])
    monkeypatch.setattr(clips.ClipSource, "_in_order", lambda *a: pytest.fail("decoded everything"))
    assert numbers(media.read(path, start=0.8, end=0.92).pixels) == [20, 21, 22]
    assert len(groups) == 2


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [False, True])
def test_display_matrix_is_applied(tmp_path, degrees, flip) -> None:
    frames = eight_bits(scene(3, 32, 64))
    path = encode(tmp_path / "a.mp4", frames, rotation=(degrees, flip, False))
    plain = plain_read(path)
    expected = np.rot90(plain, degrees // 90, axes=(1, 2))
    if flip:
        expected = expected[:, :, ::-1]
    got = media.read(path)
    assert got.pixels.shape[-2:] == ((32, 64) if degrees % 180 == 0 else (64, 32))
    assert (got.info.height, got.info.width) == tuple(got.pixels.shape[-2:])
    assert psnr(got.pixels[0].permute(1, 2, 3, 0), torch.from_numpy(expected.copy()) / 255) > 40
    assert media.read(path, size=(16, 20)).pixels.shape[-2:] == (16, 20)


def test_variable_rate_keeps_times(tmp_path) -> None:
    ticks = [0, 120, 440, 500, 900]
    for name in ("a.mkv", "a.mp4"):
        path = encode(tmp_path / name, eight_bits(numbered(5)), ticks, clock=Fraction(1, 1000))
        whole = media.read(path)
        assert whole.times == pytest.approx([t / 1000 for t in ticks], abs=1e-3)
        assert whole.fps is None
        assert numbers(media.read(path, frames=2).pixels) == [1, 3]


@pytest.mark.parametrize(
    "ticks", [[-80, -40, 0, 10, 40, 80], [0, 40, 80, 80, 120, 200]], ids=["negative", "repeated"]
)
def test_negative_and_repeated_times(tmp_path, ticks) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(eight_bits(numbered(6))):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = ticks[packet.pts]
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    for how in ({}, {"frames": 6}, {"frames": 3}):
        kept = [1, 3, 5] if how == {"frames": 3} else list(range(6))
        whole = media.read(path, **how)
        assert numbers(whole.pixels) == kept
        assert whole.times == pytest.approx([ticks[i] / 1000 for i in kept], abs=1e-3)
    later = media.read(path, start=ticks[2] / 1000, end=ticks[5] / 1000)
    assert numbers(later.pixels) == [2, 3, 4]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 6])
def test_colours_follow_the_tags(tmp_path, full_range, matrix) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0], red[..., 1] = 220, 40
    colour = {"colorspace": matrix, "color_range": 2 if full_range else 1}
    path = encode(tmp_path / "a.mp4", [red] * 3, options={"crf": "1"}, colour=colour)
    whole = media.read(path)
    assert whole.info.colour_range == ("full" if full_range else "limited")
    mean = whole.pixels.mean(dim=(0, 2, 3, 4)) * 255
    assert mean.tolist() == pytest.approx([220, 40, 0], abs=3)


def test_ten_bits_stay(tmp_path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    frame = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (32, 256, 3)))
    path = encode(
        tmp_path / "a.mkv",
        [frame] * 2,
        codec="libx265",
        pixel_format="yuv444p10le",
        source_format="rgb48le",
        options={"x265-params": "lossless=1:log-level=none"},
    )
    whole = media.read(path)
    assert whole.info.bit_depth == 10
    grey = whole.pixels[0, 1, 0, 0]
    assert torch.allclose(grey, torch.from_numpy(ramp.astype(np.float32)) / 65535, atol=2.5 / 1023)
    assert len(grey.unique()) > 250


def test_alpha_goes_over_the_background(tmp_path) -> None:
    frame = np.zeros((16, 16, 4), np.uint8)
    frame[:, 8:] = (200, 100, 50, 255)
    path = encode(tmp_path / "a.mov", [frame] * 2, codec="png", pixel_format="rgba", source_format="rgba")
    assert media.probe(path).has_alpha
    over_white = media.read(path).pixels
    assert float(over_white[..., :8].min()) == 1
    over_blue = media.read(path, background=(0, 0, 1)).pixels
    assert over_blue[0, :, 0, 0, 0].tolist() == [0, 0, 1]
    assert over_blue[0, :, 0, 0, 12].mul(255).tolist() == pytest.approx([200, 100, 50])


def test_four_kinds_of_nothing_have_four_texts(tmp_path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("This is not a video.\n" * 100)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    none = tmp_path / "none.mkv"
    bare = tmp_path / "bare.mp4"
    for path in (none, bare):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            container.start_encoding()
    texts = {}
    for path in (empty, text, sound, none, bare):
        with pytest.raises(MediaError) as caught:
            media.read(path)
        assert str(path) in str(caught.value)
        texts[path.stem] = str(caught.value).split(": ", 1)[1]
    assert "empty" in texts["empty"]
    assert "not a picture or video" in texts["text"]
    assert "sound, but no video" in texts["sound"]
    assert "holds no frame" in texts["none"]
    assert "neither video nor sound" in texts["bare"]
    assert len(set(texts.values())) == 5


def test_a_missing_file_and_a_folder(tmp_path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        media.read(tmp_path / "gone.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        media.read(tmp_path)


def test_a_cut_without_index_is_named_at_once(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(24, 48, 64)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"a\.mp4.*moov"):
        media.read(path)
    assert time.monotonic() - began < 1


def test_a_cut_tail_gives_the_frames_before_it(tmp_path) -> None:
    path = faststart_clip(tmp_path / "a.mp4")
    clean = media.read(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    chunks = []
    with media.open_clip(path) as clip, pytest.raises(MediaError) as caught:
        chunks.extend(clip.chunks(2))
    delivered = sum(len(chunk.times) for chunk in chunks)
    assert (caught.value.decoded, caught.value.promised) == (delivered, 24)
    assert 0 < delivered < 24
    kept = media.read(path, on_truncated="keep")
    assert torch.equal(kept.pixels, clean.pixels[:, :, :delivered])
    assert kept.fault is not None
    assert kept.fault.decoded == delivered
    with pytest.raises(MediaError):
        media.read(path)
    with pytest.raises(MediaError):
        media.read(path, frames=6)


def test_a_cut_matroska_is_noticed(tmp_path) -> None:
    path = encode(tmp_path / "a.mkv", eight_bits(scene(50, 48, 64)), options={"g": "8"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError) as caught:
        media.read(path)
    assert caught.value.decoded
    assert 0 < media.read(path, on_truncated="keep").pixels.shape[2] < 50


def test_a_billion_claimed_frames_are_refused(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(4, 48, 64)))
    data = bytearray(path.read_bytes())
    billion = (10**9).to_bytes(4, "big")
    place = data.index(b"stsz")
    data[place + 8 : place + 16] = (100).to_bytes(4, "big") + billion
    place = data.index(b"stts")
    data[place + 12 : place + 16] = billion
    place = data.index(b"stsc")
    data[place + 16 : place + 20] = billion
    data[data.index(b"ctts") :][:4] = b"free"
    place = data.index(b"ctts") if b"ctts" in data else None
    if place is not None:
        data[place : place + 4] = b"free"
    place = data.index(b"mdhd")
    data[place + 20 : place + 24] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(BudgetError, match="1000000000 frames"):
        media.probe(path)


def test_budget_is_checked_on_the_header(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(20, 48, 64)))
    for budget, word in (
        (media.Budget(pixels=3000), "pixels"),
        (media.Budget(frames=19), "frames"),
        (media.Budget(seconds=0.5), "seconds"),
        (media.Budget(bytes=500_000), "GiB"),
    ):
        with pytest.raises(BudgetError, match=word):
            media.read(path, budget=budget)
    with media.open_clip(path, budget=media.Budget(bytes=500_000)) as clip:
        assert sum(len(chunk.times) for chunk in clip.chunks(4)) == 20


def test_a_clip_that_begins_inside_a_group_of_pictures(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(24, 48, 64)), options={"g": "8", "bf": "0"})
    clean = media.read(path)
    with av.open(str(path)) as container:
        first = next(packet for packet in container.demux(video=0))
        place, size = first.pos, first.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        media.read(path)
    assert caught.value.promised == 24
    kept = media.read(path, on_truncated="keep")
    assert kept.pixels.shape[2] == caught.value.decoded
    assert torch.equal(kept.pixels[:, :, -16:], clean.pixels[:, :, -16:])


def test_the_empty_chunks_of_avi_are_no_frames(tmp_path) -> None:
    path = encode(
        tmp_path / "a.avi", eight_bits(numbered(4)), [0, 3, 4, 9], codec="mjpeg", pixel_format="yuvj420p"
    )
    whole = media.read(path)
    assert numbers(whole.pixels) == [0, 1, 2, 3]
    assert whole.times == pytest.approx([0, 0.12, 0.16, 0.36])


def test_a_last_frame_that_lasts_no_time_is_not_missed(tmp_path) -> None:
    """Some recorders write it so, and FFmpeg then leaves that frame out."""
    path = encode(tmp_path / "a.mp4", eight_bits(numbered(5)), options={"bf": "0"})
    data = bytearray(path.read_bytes())
    place = data.index(b"stts")
    assert data[place + 4 : place + 12] == bytes(7) + b"\1"
    step = data[place + 16 : place + 20]
    table = bytes(7) + b"\2" + (4).to_bytes(4, "big") + step + (1).to_bytes(4, "big") + bytes(4)
    data[place - 4 : place + 20] = (32).to_bytes(4, "big") + b"stts" + table
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.index(name) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + 8).to_bytes(4, "big")
    length = 4 * int.from_bytes(step, "big")
    start = data.index(b"mdhd") + 20
    data[start : start + 4] = length.to_bytes(4, "big")
    for name, offset in ((b"elst", 12), (b"tkhd", 24)):
        start = data.index(name) + offset
        data[start : start + 4] = (160).to_bytes(4, "big")
    path.write_bytes(data)
    whole = media.read(path)
    assert numbers(whole.pixels) == [0, 1, 2, 3]
    assert whole.info.frames == 4


def test_contradicting_options(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(scene(4, 48, 64)))
    for options in (
        {"frames": 2, "fps": 5},
        {"frames": 0},
        {"fps": -1},
        {"start": 2, "end": 1},
        {"size": (0, 4)},
    ):
        with pytest.raises(ConfigError):
            media.read(path, **options)
    with pytest.raises(MediaError, match="no frame lies"):
        media.read(path, start=5)


def test_odd_names_and_no_home(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    data = written(tmp_path / "a.mp4", scene(3, 48, 64)).read_bytes()
    for name in ("with space.mp4", "new\nline.mp4", "percent %03d.mp4", "caf\udce9.mp4", "a:b.mp4", "-i.mp4"):
        path = tmp_path / name
        path.write_bytes(data)
        assert media.read(path).pixels.shape == (1, 3, 3, 48, 64)
        media.write_clip(path, scene(2, 48, 64), fps=25)
        assert media.probe(path).frames == 2


def test_sound_is_seen(tmp_path) -> None:
    assert media.probe(with_sound(tmp_path / "a.mp4")).has_audio
    assert media.read(tmp_path / "a.mp4").pixels.shape[2] == 25


def _corruptions(path, data: bytes, seeds: range) -> dict[str, int]:
    """What reading gives after one to four bytes were changed, for every seed."""
    clean = media.read(path)
    broken = path.with_name("broken.mp4")
    counts = {"refused": 0, "equal": 0, "other pixels": 0, "other times": 0, "other size": 0}
    counts["other count"] = 0
    for seed in seeds:
        generator = np.random.default_rng(seed)
        changed = bytearray(data)
        for place in generator.integers(0, len(data), generator.integers(1, 5)):
            changed[place] ^= int(generator.integers(1, 256))
        broken.write_bytes(changed)
        began = time.monotonic()
        try:
            got = media.read(broken)
        except (MediaError, BudgetError):
            counts["refused"] += 1
            continue
        finally:
            assert time.monotonic() - began < 10, seed
        if got.pixels.shape[2] != clean.pixels.shape[2]:
            counts["other count"] += 1
        elif got.pixels.shape != clean.pixels.shape:
            counts["other size"] += 1
        elif got.times != clean.times:
            counts["other times"] += 1
        else:
            counts["equal" if torch.equal(got.pixels, clean.pixels) else "other pixels"] += 1
    return counts


def test_a_thousand_corruptions(tmp_path) -> None:
    """No crash and no hang, and never another count of frames. mp4 holds no checksum: a changed byte that is
    still valid syntax changes pixels, their size or times, and nobody can tell. The bounds say how often."""
    path = written(tmp_path / "a.mp4", scene(12, 48, 64))
    counts = _corruptions(path, path.read_bytes(), range(1000))
    assert counts["other count"] == 0
    assert counts["refused"] > 500
    assert counts["other times"] < 20
    assert counts["other size"] <= 2


@pytest.mark.parametrize(
    ("box", "offset", "value", "word"),
    [
        (b"mvhd", 16, 11_797_480, "shortest frame"),  # the movie's clock: all of it would last 40 µs
        (b"mvhd", 16, 1256, "by a clock of 1256"),
        (b"elst", 12, 423, "its edit list shows 423"),  # the last frame would fall out
        (b"mdhd", 20, 200, "contradicts itself"),
    ],
)
def test_an_index_that_would_hide_frames_is_refused(tmp_path, box, offset, value, word) -> None:
    path = written(tmp_path / "a.mp4", scene(12, 48, 64))
    data = bytearray(path.read_bytes())
    place = data.index(box) + offset
    data[place : place + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(MediaError, match=word):
        media.read(path)


def test_an_edit_list_that_hides_frames_is_followed(tmp_path) -> None:
    path = encode(tmp_path / "a.mp4", eight_bits(numbered(12)), options={"bf": "0"})
    data = bytearray(path.read_bytes())
    for box, offset in ((b"elst", 12), (b"tkhd", 24)):
        place = data.index(box) + offset
        data[place : place + 4] = (240).to_bytes(4, "big")
    path.write_bytes(data)
    assert numbers(media.read(path).pixels) == list(range(6))


def test_uneven_times_with_frames_out_of_order_are_no_contradiction(tmp_path) -> None:
    ticks = [0, 10, 20, 3000, 3010, 9000, 9010, 9020, 20_000]
    options = {"bf": "3", "b_strategy": "0"}
    path = encode(
        tmp_path / "a.mp4", eight_bits(numbered(9)), ticks, clock=Fraction(1, 1000), options=options
    )
    whole = media.read(path)
    assert numbers(whole.pixels) == list(range(9))
    assert whole.times == pytest.approx([t / 1000 for t in ticks], abs=1e-3)


def broken_in_the_middle(tmp_path, name: str = "a.mp4"):
    """A clip of 24 numbered frames, 8 of a group, without B-frames; packets 9 and 17 are zeroed."""
    path = encode(tmp_path / name, eight_bits(numbered(24)), options={"g": "8", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in (9, 17):
        place, size = packets[number]
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path


def test_damage_is_refused_or_skipped_and_counted(tmp_path) -> None:
    path = broken_in_the_middle(tmp_path)
    with pytest.raises(MediaError, match="damaged='skip'") as caught:
        media.read(path)
    assert caught.value.decoded == 9
    kept = media.read(path, on_truncated="keep")
    assert (kept.pixels.shape[2], kept.frames_corrupt) == (9, 0)
    whole = media.read(path, damaged="skip")
    assert (whole.pixels.shape[2], whole.frames_corrupt, whole.fault) == (22, 2, None)
    left = [place for place in range(24) if place not in (9, 17)]
    assert whole.times == pytest.approx([place / 25 for place in left])
    with media.open_clip(path, damaged="skip") as clip:
        assert [len(chunk.times) for chunk in clip.chunks(8)] == [8, 8, 6]
        assert clip.frames_corrupt == 2
        assert len(clip.times()) == 24


def test_no_frame_takes_the_place_of_a_damaged_one(tmp_path) -> None:
    path = broken_in_the_middle(tmp_path)
    part = media.read(path, start=0.32, end=0.48, damaged="skip")
    assert part.times == pytest.approx([0.32, 0.4, 0.44])
    assert (numbers(part.pixels[:, :, :1]), part.frames_corrupt) == ([8], 1)
    sparse = media.read(path, frames=3, damaged="skip")  # 4, 12, 20
    assert (sparse.times, sparse.frames_corrupt) == (pytest.approx((0.16, 0.48, 0.8)), 0)


def test_a_good_clip_is_the_same_when_damage_is_skipped(tmp_path) -> None:
    path = faststart_clip(tmp_path / "a.mp4")
    for options in ({}, {"frames": 5}, {"fps": 50}):
        strict, lenient = media.read(path, **options), media.read(path, damaged="skip", **options)
        assert torch.equal(strict.pixels, lenient.pixels)
        assert (strict.times, lenient.frames_corrupt) == (lenient.times, 0)


def test_a_cut_clip_is_not_taken_for_a_damaged_one(tmp_path) -> None:
    path = faststart_clip(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match="ends early"):
        media.read(path, damaged="skip")
    kept = media.read(path, damaged="skip", on_truncated="keep")
    assert kept.fault is not None


def test_times_without_decoding(tmp_path) -> None:
    ticks = [0, 120, 440, 500, 900]
    path = encode(tmp_path / "a.mkv", eight_bits(numbered(5)), ticks, clock=Fraction(1, 1000))
    with media.open_clip(path) as clip:
        assert clip.times() == pytest.approx([t / 1000 for t in ticks], abs=1e-3)
    with media.open_clip(path, start=0.1, end=0.6) as clip:
        assert clip.times() == pytest.approx([0.12, 0.44, 0.5], abs=1e-3)


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_high_dynamic_range_becomes_standard(tmp_path, transfer) -> None:
    """Greys stay grey and in order; light below the knee shows as bright as it was; 1,000 nits are white."""
    levels = np.round(np.linspace(0, 0.76 if transfer == 16 else 1.0, 16) * 65535).astype(np.uint16)
    frame = np.ascontiguousarray(np.broadcast_to(levels.repeat(16)[None, :, None], (32, 256, 3)))
    colour = {"colorspace": 9, "color_range": 1, "color_trc": transfer, "color_primaries": 9}
    path = encode(
        tmp_path / "a.mkv",
        [frame] * 2,
        codec="libx265",
        pixel_format="yuv444p10le",
        source_format="rgb48le",
        options={"x265-params": "lossless=1:log-level=none"},
        colour=colour,
    )
    pixels = media.read(path).pixels[0, :, 0, 16, 8::16]
    assert float((pixels - pixels.mean(0)).abs().max()) < 0.02
    grey = pixels.mean(0)
    assert (grey.diff() > -1e-3).all()
    assert float(grey[-1]) > 0.99
    assert float(grey[0]) < 0.02
    if transfer == 16:
        code = float(levels[6]) / 65535
        root = code ** (32 / 2523)
        nits = 10_000 * (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)
        assert float(grey[6]) == pytest.approx((nits / 203) ** (1 / 2.4), abs=0.02)


def test_import_does_not_need_a_terminal_or_home(tmp_path) -> None:
    path = written(tmp_path / "a.mp4", scene(2, 48, 64))
    code = "import sys; from smalti import media; print(media.read(sys.argv[1]).pixels.shape[2])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        env={"PATH": "/usr/bin", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2"
    assert done.stderr == ""
