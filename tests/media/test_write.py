from __future__ import annotations

import av
import pytest
import torch

from smalti import media
from smalti.errors import ConfigError, MediaError, UnsupportedError
from tests.media.files import numbered, numbers, plain_read, psnr, scene, with_sound


@pytest.mark.parametrize(
    ("name", "least"),
    [("a.png", 50), ("a.tiff", 50), ("a.jpg", 28), ("a.jpeg", 28), ("a.webp", 28), ("a.avif", 28)],
)
@pytest.mark.parametrize(("height", "width"), [(40, 60), (41, 59), (1, 1), (1, 31)])
def test_pictures_there_and_back(tmp_path, name, least, height, width) -> None:
    pixels = scene(1, height, width)
    media.write_image(tmp_path / name, pixels)
    back = media.read(tmp_path / name).pixels
    assert back.shape == pixels.shape
    if min(height, width) > 1:
        assert psnr(back, pixels) > least


def test_lossless_webp_and_quality(tmp_path) -> None:
    pixels = scene(1, 40, 60).mul(255).round().div(255)
    media.write_image(tmp_path / "a.webp", pixels, lossless=True)
    assert torch.equal(media.read(tmp_path / "a.webp").pixels, pixels)
    for suffix in ("jpg", "webp", "avif"):
        noise = torch.rand(1, 3, 1, 64, 64)
        media.write_image(tmp_path / f"low.{suffix}", noise, quality=5)
        media.write_image(tmp_path / f"high.{suffix}", noise, quality=95)
        assert (tmp_path / f"low.{suffix}").stat().st_size < (tmp_path / f"high.{suffix}").stat().st_size


CLIPS = [
    ("a.mp4", None),
    ("a.mp4", "hevc"),
    ("a.mp4", "av1"),
    ("a.mov", None),
    ("a.mkv", None),
    ("a.webm", None),
    ("a.webm", "av1"),
]


@pytest.mark.parametrize(("name", "codec"), CLIPS)
@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63)])
def test_videos_keep_size_count_and_times(tmp_path, name, codec, height, width) -> None:
    if codec == "av1" and (height, width) == (48, 63):
        pytest.skip("one odd size is enough for the slowest encoder")
    path = tmp_path / name
    pixels = scene(6, height, width)
    media.write_clip(path, pixels, fps=30000 / 1001, codec=codec)
    whole = media.read(path)
    assert whole.pixels.shape == pixels.shape
    assert plain_read(path).shape == (6, height, width, 3)
    assert psnr(whole.pixels, pixels) > 29
    assert whole.fps == pytest.approx(30000 / 1001)
    times = [0, 0.1, 0.15, 0.4, 0.5, 0.52]
    media.write_clip(path, pixels, times=times, codec=codec)
    whole = media.read(path)
    assert whole.times == pytest.approx(times, abs=2e-3)
    assert whole.pixels.shape == pixels.shape


def test_the_smallest_video(tmp_path) -> None:
    media.write_clip(tmp_path / "a.mp4", torch.full((1, 3, 1, 1, 1), 0.5), fps=25)
    whole = media.read(tmp_path / "a.mp4")
    assert whole.pixels.shape == (1, 3, 1, 1, 1)
    assert float((whole.pixels - 0.5).abs().max()) < 0.02


@pytest.mark.parametrize(("height", "matrix"), [(48, 6), (720, 1)])
def test_colours_are_tagged_and_right(tmp_path, height, matrix) -> None:
    pixels = torch.zeros(1, 3, 2, height, 64)
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = 0.85, 0.2, 0.1
    path = tmp_path / "a.mp4"
    media.write_clip(path, pixels, fps=25, quality=1)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (matrix, 1)
    assert media.read(path).pixels.mean(dim=(0, 2, 3, 4)).tolist() == pytest.approx(
        [0.85, 0.2, 0.1], abs=0.015
    )


UNEVEN = {
    "late": [5 + i / 25 for i in range(6)],
    "a last frame with the time of the one before": [0, 0.1, 0.2, 0.3, 0.4, 0.4],
    "a last frame after a long gap": [0, 0.1, 0.2, 0.3, 0.4, 1000.0],
    "a long gap at the end of a short clip": [0, 0.001, 0.5],
    "two": [0, 0.033],
    "one": [0.0],
}


@pytest.mark.parametrize("times", UNEVEN.values(), ids=UNEVEN)
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", None), ("a.mp4", "hevc"), ("a.mkv", None)])
def test_no_frame_of_an_uneven_clip_is_lost(tmp_path, times, name, codec) -> None:
    path = tmp_path / name
    media.write_clip(path, numbered(len(times)), times=times, codec=codec)
    whole = media.read(path)
    assert numbers(whole.pixels) == list(range(len(times)))
    assert len(plain_read(path)) == len(times)
    assert whole.times == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_keep_equal_neighbours_and_times(tmp_path, suffix) -> None:
    pixels = numbered(4)[:, :, [0, 0, 1, 2, 2, 3]]
    times = [0, 0.1, 0.15, 0.4, 0.5, 0.6]
    path = tmp_path / f"a{suffix}"
    media.write_clip(path, pixels, times=times)
    whole = media.read(path)
    assert numbers(whole.pixels) == [0, 0, 1, 2, 2, 3]
    assert whole.times == pytest.approx(times, abs=0.006)
    assert media.probe(path).duration == pytest.approx(0.7, abs=0.02)


def test_picture_sequences(tmp_path) -> None:
    media.write_clip(tmp_path / "frames", numbered(3), fps=25)
    media.write_clip(tmp_path / "f_%03d.webp", numbered(3), fps=25, lossless=True)
    for files in (media.sources(tmp_path / "frames"), media.sources(str(tmp_path / "f_*.webp"))):
        assert [numbers(media.read(file).pixels) for file in files] == [[0], [1], [2]]
    with pytest.raises(ConfigError, match="not an empty folder"):
        media.write_clip(tmp_path / "frames", numbered(3), fps=25)


def test_chunks_stream_from_reader_to_writer(tmp_path) -> None:
    media.write_clip(tmp_path / "a.mp4", numbered(20), fps=25)
    with media.open_clip(tmp_path / "a.mp4") as clip:
        media.write_clip(tmp_path / "b.mkv", clip.chunks(3))
    back = media.read(tmp_path / "b.mkv")
    assert numbers(back.pixels) == list(range(20))
    assert back.times == pytest.approx([i / 25 for i in range(20)], abs=1e-3)


def test_sound_is_carried_over(tmp_path) -> None:
    source = with_sound(tmp_path / "a.mp4")
    media.write_clip(tmp_path / "b.mp4", scene(25, 48, 64), fps=25, audio_from=source)

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    assert packets(tmp_path / "b.mp4") == packets(source)
    assert media.read(tmp_path / "b.mp4").pixels.shape[2] == 25
    with pytest.raises(UnsupportedError, match="sound"):
        media.write_clip(tmp_path / "b.webm", scene(5, 48, 64), fps=25, audio_from=source)
    media.write_clip(tmp_path / "silent.mp4", scene(2, 48, 64), fps=25)
    with pytest.raises(MediaError, match="no sound"):
        media.write_clip(tmp_path / "c.mp4", scene(5, 48, 64), fps=25, audio_from=tmp_path / "silent.mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "silent.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "frames"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_is_left(tmp_path, name, error) -> None:
    def chunks():
        yield scene(3, 48, 64)
        raise error

    with pytest.raises(error):
        media.write_clip(tmp_path / name, chunks(), fps=25)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failed_write(tmp_path) -> None:
    path = tmp_path / "a.mp4"
    media.write_clip(path, numbered(3), fps=25)
    before = path.read_bytes()
    bad = torch.full((1, 3, 2, 48, 64), float("nan"))
    with pytest.raises(MediaError):
        media.write_clip(path, bad, fps=25)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("a.mp5", {"fps": 25}, "mp5"),
        ("a.mp4", {}, "fps"),
        ("a.mp4", {"fps": 0}, "positive"),
        ("a.mp4", {"fps": 25, "codec": "h265"}, "h264"),
        ("a.mp4", {"fps": 25, "quality": 90}, "quality"),
        ("a.mp4", {"fps": 25, "times": [0, 1, 2]}, "not both"),
        ("a.mp4", {"fps": 25, "lossless": True}, "lossy"),
        ("a.gif", {"fps": 25, "codec": "h264"}, "codec"),
        ("gone/a.mp4", {"fps": 25}, "does not exist"),
    ],
)
def test_options_that_do_not_fit(tmp_path, name, options, word) -> None:
    with pytest.raises(ConfigError, match=word):
        media.write_clip(tmp_path / name, numbered(3), **options)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_do_not_fit(tmp_path) -> None:
    for name, options in (
        ("a.bmp", {}),
        ("a.png", {"quality": 5}),
        ("a.jpg", {"bits": 16}),
        ("a.jpg", {"lossless": True}),
        ("a.jpg", {"quality": 101}),
    ):
        with pytest.raises(ConfigError):
            media.write_image(tmp_path / name, scene(1, 8, 8), **options)
    with pytest.raises(MediaError, match="one frame"):
        media.write_image(tmp_path / "a.png", scene(2, 8, 8).numpy())
    assert list(tmp_path.iterdir()) == []


def test_frames_that_do_not_fit(tmp_path) -> None:
    with pytest.raises(MediaError, match="64x48"):
        media.write_clip(tmp_path / "a.mp4", iter([scene(2, 48, 64), scene(2, 40, 64)]), fps=25)
    with pytest.raises(MediaError, match="comes before"):
        media.write_clip(tmp_path / "a.mp4", scene(2, 48, 64), times=[1, 0])
    with pytest.raises(MediaError, match="no frame"):
        media.write_clip(tmp_path / "a.mp4", iter(()), fps=25)
    assert list(tmp_path.iterdir()) == []
