"""How fast `mosaic` is: frames of 256×256 a second, there and back.

```
pixels ── encode ──► ids ── entropy coder ──► bytes      and the same way back, each part by itself
```
Whole is one call with 17 frames; streamed is 65 frames pushed 16 at a time. bfloat16 is shown for
information: token files are written in float32. Usage: `python benchmarks/mosaic_speed.py`
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import torch
import tyro
from common import Film, Target, interleaved, report, table
from einops import rearrange

from smalti.tokenizers.mosaic import Mosaic
from smalti.tokens import Tokens

WHOLE, STREAMED, PUSHED = 17, 65, 16
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENOUGH = 25  # frames a second, each way


def main(repeats: int = 5, threads: tuple[int, ...] = (1, 2)) -> int:
    """Measure, show and save.

    Args:
        repeats: that count, after one that does not.
        threads: numbers of threads to measure with.
    """
    began = time.monotonic()
    model, weights = common.mosaic()
    film = Film().frames(0, STREAMED)
    networks = []
    for count in threads:
        torch.set_num_threads(count)
        networks += measure_networks(model, film, repeats, count)
    coding = measure_coder(model, film[:, :, :WHOLE], repeats)
    both_ways = to_bytes_and_back(networks, coding, max(threads), len(model.stages))
    targets = [Target(f"{what}, frames a second", rate, ENOUGH) for what, rate in both_ways.items()]
    tables = [table("mosaic, networks and quantizer", networks)]
    tables += [table("mosaic, entropy coder", coding)] if coding else []
    return report(
        "mosaic_speed",
        tables,
        {"weights": weights, "repeats": repeats, "networks": networks, "entropy_coder": coding}
        | {"best quality, float32, frames a second": both_ways},
        targets,
        data={"source": "wandering texture", "size": [256, 256], "whole": WHOLE, "streamed": STREAMED},
        began=began,
    )


def measure_networks(model: Mosaic, film: torch.Tensor, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Frames a second of encoding and of decoding at every quality."""
    rows = []
    clip = film[:, :, :WHOLE]
    best = len(model.stages)
    for precision, dtype in PRECISIONS.items():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            tokens = model.encode(clip)
            parts = stream_encode(model, film)
            contestants: dict[tuple[str, int, int], Callable[[], Any]] = {
                ("encode whole", best, WHOLE): lambda: model.encode(clip),
                ("encode streamed", best, STREAMED): lambda: stream_encode(model, film),
                ("decode streamed", best, STREAMED): lambda parts=parts: stream_decode(model, parts),
            }
            for quality, codes in enumerate(model.stages, start=1):
                part = tokens.codebooks(codes)
                contestants["decode whole", quality, WHOLE] = lambda part=part: model.decode(part)
            times = interleaved(contestants, repeats)
        rows += [
            {
                "what": what,
                "quality": quality,
                "threads": threads,
                "precision": precision,
                "frames a second": times[what, quality, frames].rate(frames),
            }
            for what, quality, frames in contestants
        ]
    return rows


def stream_encode(model: Mosaic, film: torch.Tensor) -> list[Tokens]:
    """Tokens of a film that comes some frames at a time."""
    encoder = model.stream().encoder
    parts = [encoder.push(chunk) for chunk in film.split(PUSHED, 2)]
    return [part for part in [*parts, encoder.flush()] if part is not None]


def stream_decode(model: Mosaic, parts: list[Tokens]) -> None:
    """Frames of tokens that come in parts; each is dropped before the next."""
    decoder = model.stream().decoder
    for part in parts:
        decoder.push(part)


def measure_coder(model: Mosaic, clip: torch.Tensor, repeats: int) -> list[dict[str, Any]]:
    """Frames and symbols a second of the context model, there and back, at every quality.

    It computes in numpy, which chooses its threads by itself.
    """
    coder = model.entropy_coder()
    if coder is None:
        return []
    tokens = model.encode(clip)
    ids = rearrange(tokens.ids[0], "(t h w) q -> t h w q", t=tokens.grid[0], h=tokens.grid[1]).numpy()
    shape, rows = ids.shape[:3], []
    for quality in range(1, len(model.stages) + 1):
        stages = model.stages[:quality]
        part = ids[..., : stages[-1]]
        streams = coder.encode(part, stages)
        symbols = sum(model.quantizer.config.opened[:quality]) * math.prod(shape)
        times = interleaved(
            {
                "encode ids": lambda part=part, stages=stages: coder.encode(part, stages),
                "decode ids": lambda streams=streams, stages=stages: coder.decode(streams, shape, stages),
            },
            repeats,
        )
        rows += [
            {
                "what": what,
                "quality": quality,
                "frames a second": timing.rate(clip.shape[2]),
                "million symbols a second": timing.rate(symbols / 1e6),
                "bits per pixel": round(8 * sum(map(len, streams)) / clip[0, 0].numel(), 4),
            }
            for what, timing in times.items()
        ]
    return rows


def to_bytes_and_back(
    networks: list[dict[str, Any]], coding: list[dict[str, Any]], threads: int, quality: int
) -> dict[str, float]:
    """Frames a second each way of the networks alone, and with the entropy coder after or before them."""
    rates = {}
    for way, whole in {"encode": "pixels to bytes", "decode": "bytes to pixels"}.items():
        wanted = {"what": f"{way} whole", "quality": quality, "threads": threads, "precision": "float32"}
        rates[f"{way} alone"] = median(networks, wanted)
        if coding:
            coder = median(coding, {"what": f"{way} ids", "quality": quality})
            rates[whole] = 1 / (1 / rates[f"{way} alone"] + 1 / coder)
    return rates


def median(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> float:
    """Frames a second of the row that has these values."""
    return next(row["frames a second"]["median"] for row in rows if wanted.items() <= row.items())


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
