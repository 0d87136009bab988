"""How much memory `mosaic` takes for clips of any length: it must not grow.

```
Film ── 16 frames ──► stream().encoder ──► Tokens ──► stream().decoder ──► dropped         stream
clip.mp4 ── encode_file ──► clip.smt                                                       encode_file
clip.smt ── decode_file ──► clip.mp4                                                       decode_file
```
Every length runs in a fresh process, which notes the peak of its resident memory, whole and above what it
holds once the model is loaded. Linux alone counts this. Of the rise above the model a part is filled by the
first chunk of a token file (61 frames) and by the frames that a video encoder looks ahead (about 60), so it
settles later than 33 frames. The C library keeps some freed memory for later, more in one run
than in another: `--return-freed` makes it give large blocks back at once, so that the peak is what is held.
Usage: `python benchmarks/mosaic_memory.py`
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import common
import torch
import tyro
from common import Film, Target, report, table

from smalti.files import decode_file, encode_file

LENGTHS = (17, 33, 65, 257, 1025)
SHORT, LONG, GROWTH = 33, 1025, 1.1
PUSHED = 16
WAYS = ("stream", "encode_file", "decode_file")


def main(
    lengths: tuple[int, ...] = LENGTHS, threads: int = 2, repeats: int = 3, return_freed: bool = False
) -> int:
    """Measure, show and save.

    Args:
        lengths: frames of the clips.
        threads: of every process.
        repeats: of every measurement; the median counts.
        return_freed: let the C library keep no freed block of 64 KiB or more.
    """
    began = time.monotonic()
    if return_freed:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    peaks: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    risen_by: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        for length in lengths:
            clip = Film().write(Path(folder) / f"{length}.mp4", length)
            for way in WAYS:
                found = [in_fresh_process(way, clip, length, threads) for _ in range(repeats)]
                peaks[way][length], risen_by[way][length] = map(statistics.median, zip(*found, strict=True))
    kinds = {"peak": peaks, "rise above the loaded model": risen_by}
    tables = [
        table(
            f"mosaic, resident memory in MiB: {kind}",
            [
                {"": way, **{f"{n} frames": f"{mebibytes:.0f}" for n, mebibytes in found.items()}}
                for way, found in figures.items()
            ],
        )
        for kind, figures in kinds.items()
    ]
    targets = [
        Target(
            f"{way}, {kind} at {LONG} / at {SHORT} frames", found[LONG] / found[SHORT], GROWTH, at_least=False
        )
        for kind, figures in kinds.items()
        for way, found in figures.items()
        if {SHORT, LONG} <= set(found)
    ]
    return report(
        "mosaic_memory",
        tables,
        {"weights": common.mosaic()[1], "threads": threads, "repeats": repeats, "mebibytes": kinds}
        | {"freed memory is returned at once": return_freed},
        targets,
        data={"source": "wandering texture", "size": [256, 256], "frames": list(lengths)},
        began=began,
    )


def in_fresh_process(way: str, clip: Path, length: int, threads: int) -> tuple[float, float]:
    """What `peak_and_rise` finds in a process that has done nothing before."""
    with get_context("spawn").Pool(1) as fresh:
        return fresh.apply(peak_and_rise, (way, clip, length, threads))


def peak_and_rise(way: str, clip: Path, length: int, threads: int) -> tuple[float, float]:
    """MiB that this process holds at most, and by how much it grows above what it holds with the model."""
    torch.set_num_threads(threads)
    model, _ = common.mosaic()
    film, tokens, again = Film(), clip.with_suffix(".smt"), clip.with_name(f"again-{clip.name}")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    if way == "stream":
        stream = model.stream()
        for first in range(0, length, PUSHED):
            part = stream.encoder.push(film.frames(first, min(PUSHED, length - first)))
            if part is not None:
                stream.decoder.push(part)
        if (rest := stream.encoder.flush()) is not None:
            stream.decoder.push(rest)
    elif way == "encode_file":
        encode_file(clip, tokens, model)
    else:
        decode_file(tokens, again, model)
    peak = resident("VmHWM")
    return peak, peak - before


def resident(field: str) -> float:
    """MiB of resident memory: now (`VmRSS`) or at its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
