"""How fast `smalti.media` reads a clip, beside plain PyAV and OpenCV.

All read the same 240 frames of 640×360 (H.264, a key frame every two seconds) in turn. PyAV and OpenCV give
RGB in 8 bits; Smalti does so by `frames()`, and in float32 by `read`. For a few frames PyAV does what most
loaders do (decode all, keep some) and OpenCV seeks. Usage: `python benchmarks/media_decode.py`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import torch
import tyro
from common import FPS, Film, Target, Timing, interleaved, report, table
from rich import print

from smalti import media

LENGTH, HEIGHT, WIDTH, FEW = 240, 360, 640, 16
SIZES = {"native": None, "256x256": (256, 256)}
Size = tuple[int, int] | None


def main(repeats: int = 5, threads: int = 2) -> int:
    """Measure, show and save.

    Args:
        repeats: that count, after one that does not.
        threads: of torch; the decoders take as many as there are cores.
    """
    began = time.monotonic()
    torch.set_num_threads(threads)
    rows, targets = [], []
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        path = write_clip(Path(folder) / "clip.mp4")
        for size_name, size in SIZES.items():
            for pattern, few in {"all": None, f"{FEW} uniform": FEW}.items():
                times = interleaved(readers(path, size, few), repeats)
                rows += [figure(reader, pattern, size_name, few or LENGTH, times) for reader in times]
    if "OpenCV" in {row["reader"] for row in rows}:
        targets = [
            Target(
                f"frames(), {row['pattern']}, {row['size']}, against OpenCV",
                1 / row["against frames()"]["median"],
                1,
            )
            for row in rows
            if row["reader"] == "OpenCV"
        ]
    else:
        print("OpenCV is not installed: `pip install opencv-python-headless` to have it beside the others")
    return report(
        "media_decode",
        [table("frames a second, and how many times as fast as frames()", rows)],
        {"repeats": repeats, "readers": rows},
        targets,
        data={
            "source": "wandering texture, x264 crf 23",
            "size": [HEIGHT, WIDTH],
            "frames": LENGTH,
            "opencv": getattr(opencv(), "__version__", None),
        },
        began=began,
    )


def write_clip(path: Path) -> Path:
    """The clip, as x264 writes it by default but for a key frame every two seconds."""
    film = Film(HEIGHT, WIDTH)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"crf": "23", "g": str(2 * FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(LENGTH):
            pixels = film.frames(number, 1)[0, :, 0].permute(1, 2, 0).mul(255).byte().numpy()
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return path


def readers(path: Path, size: Size, few: int | None) -> dict[str, Callable[[], Any]]:
    """Name → reading of the whole clip, or of a few frames spread evenly."""
    places = (
        set(range(LENGTH))
        if few is None
        else set(np.linspace(0, LENGTH - 1, few).round().astype(int).tolist())
    )
    found: dict[str, Callable[[], Any]] = {
        "smalti frames()": lambda: exhaust(media.open_clip(path, size=size, frames=few).frames()),
        "smalti read": lambda: media.read(path, size=size, frames=few, progress=False),
        "PyAV": lambda: exhaust(read_pyav(path, size, places)),
    }
    library = opencv()
    if library is not None:
        found["OpenCV"] = lambda: exhaust(read_opencv(library, path, size, places))
    return found


def exhaust(frames: Iterable[Any]) -> None:
    """Look at every frame and keep none."""
    for _ in frames:
        pass


def read_pyav(path: Path, size: Size, places: set[int]) -> Iterable[np.ndarray]:
    """Wanted frames by `to_ndarray`, with the threads PyAV recommends."""
    shape = {} if size is None else {"height": size[0], "width": size[1]}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in places:
                yield frame.to_ndarray(format="rgb24", **shape)


def read_opencv(library: ModuleType, path: Path, size: Size, places: set[int]) -> Iterable[np.ndarray]:
    """Wanted frames by `VideoCapture`, turned to RGB."""
    capture = library.VideoCapture(str(path))
    for place in sorted(places):
        if len(places) < LENGTH:
            capture.set(library.CAP_PROP_POS_FRAMES, place)
        _, frame = capture.read()
        if size is not None:
            frame = library.resize(frame, size[::-1], interpolation=library.INTER_AREA)
        yield library.cvtColor(frame, library.COLOR_BGR2RGB)
    capture.release()


def opencv() -> ModuleType | None:
    """OpenCV, where it is installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def figure(reader: str, pattern: str, size: str, frames: int, times: dict[str, Timing]) -> dict[str, Any]:
    """One line of the results."""
    return {
        "reader": reader,
        "pattern": pattern,
        "size": size,
        "frames a second": times[reader].rate(frames),
        "against frames()": times[reader].against(times["smalti frames()"]),
    }


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
