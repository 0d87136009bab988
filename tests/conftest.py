"""What every test has: one thread, a fixed seed, the demo's clip and photograph, and a tiny tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "src" / "smalti" / "assets"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def media(tmp_path, monkeypatch) -> Path:
    """An empty working folder with `photo.png` (small) and `clip.mp4` in it."""
    import av
    from PIL import Image

    with Image.open(ASSETS / "towers.png") as picture:
        picture.resize((96, 54)).save(tmp_path / "photo.png")
    with av.open(str(ASSETS / "city.mp4")) as source, av.open(str(tmp_path / "clip.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == 26:
                break
            out.mux(stream.encode(frame.reformat(64, 36, "yuv420p")))
        out.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capfd):
    """Run the command in this process: `run("info", path)` → (exit code, stdout, stderr)."""
    from smalti.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call
