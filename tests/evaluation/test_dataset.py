import av
import pytest
import torch

from smalti.errors import MediaError
from smalti.evaluation.dataset import dataset

from .makers import save_picture, scene


def save_clip(pixels, path, rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[-2:], "yuv420p"
        for frame in pixels[0].permute(1, 2, 3, 0).mul(255).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def test_pictures_in_order_of_name(tmp_path):
    (tmp_path / "deep").mkdir()
    second = save_picture(scene(16, 24, seed=1), tmp_path / "b.png")
    first = save_picture(scene(16, 24, seed=2), tmp_path / "deep" / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    data = dataset(tmp_path)
    assert data.paths == (first, second)
    assert (data.kind, len(data)) == ("picture", 2)
    samples = list(data)
    assert [sample.name for sample in samples] == ["a.png", "b.png"]
    assert torch.equal(samples[1].pixels, scene(16, 24, seed=1))


def test_a_file_named_twice_counts_once(tmp_path):
    path = save_picture(scene(16, 24), tmp_path / "a.png")
    assert len(dataset([path, tmp_path])) == 1


def test_clips_from_their_first_frame(tmp_path):
    path = save_clip(scene(32, 48, frames=7), tmp_path / "clip.mp4")
    (whole,) = dataset(path)
    (start,) = dataset(path, max_frames=3)
    assert whole.pixels.shape == (1, 3, 7, 32, 48)
    assert torch.equal(start.pixels, whole.pixels[:, :, :3])
    assert (whole.fps, start.fps) == (10, 10)


def test_the_digest_names_the_content(tmp_path):
    save_picture(scene(16, 24), tmp_path / "a.png")
    before = dataset(tmp_path).digest
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert dataset(tmp_path).digest == before
    save_picture(scene(16, 24, seed=1), tmp_path / "b.png")
    assert dataset(tmp_path).digest != before


def test_the_digest_names_how_much_is_read(tmp_path):
    path = save_clip(scene(32, 48, frames=3), tmp_path / "clip.mp4")
    assert dataset(path, 2).digest != dataset(path).digest


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(MediaError, match="no picture or clip"):
        dataset(tmp_path)
    with pytest.raises(MediaError, match="empty list"):
        dataset([])
    with pytest.raises(MediaError, match="no such file"):
        dataset(tmp_path / "missing.png")
    save_picture(scene(16, 24), tmp_path / "a.png")
    save_clip(scene(32, 48, frames=2), tmp_path / "b.mp4")
    with pytest.raises(MediaError, match="one kind at a time"):
        dataset(tmp_path)
