"""Rate against distortion: the same pictures through several coders, each at all its settings.

```
dataset ──► sample ──► coder at a setting ──► bytes, pixels ──► figures ──► one RatePoint a sample ──► mean
```

A coder is a classical codec or a tokenizer with its file format; both are measured by the same lines below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError
from smalti.evaluation.codecs import Coded
from smalti.evaluation.dataset import Dataset, Sample
from smalti.evaluation.frechet import frechet
from smalti.evaluation.judges import Judges, Look, agreement, perceptual
from smalti.evaluation.metrics import fidelity
from smalti.media.progress import Report, track

JUDGED_FRAMES = 4


@runtime_checkable
class Coder(Protocol):
    """What can be measured."""

    @property
    def name(self) -> str:
        """As tables and plots print it."""
        ...

    @property
    def settings(self) -> tuple[int, ...]:
        """From fewest bytes to most."""
        ...

    def round_trip(self, pixels: Float[Tensor, "1 3 t h w"], setting: int, fps: float) -> Coded:
        """Encode and decode."""
        ...


@dataclass(frozen=True)
class RatePoint:
    """One coder at one setting: on one picture or clip, or as the mean over all.

    Attributes:
        codec, setting: who, and how.
        sample: the file's name; empty for the mean.
        bytes: of the whole file or stream.
        bits_per_pixel: eight times `bytes` over pixels of all frames.
        psnr, ssim, ms_ssim: see `metrics`; NaN where frames are too small.
        perceptual, agreement: see `judges`; NaN without judges.
        frechet: between all originals and all results; NaN for one sample, or without judges.
        encode_seconds, decode_seconds: wall time.
        tokens, index_bits_per_pixel: of tokenizers; the latter is what packed indices would take.
    """

    codec: str
    setting: int
    sample: str
    bytes: float
    bits_per_pixel: float
    psnr: float
    ssim: float
    ms_ssim: float
    perceptual: float = math.nan
    agreement: float = math.nan
    frechet: float = math.nan
    encode_seconds: float = math.nan
    decode_seconds: float = math.nan
    tokens: float = math.nan
    index_bits_per_pixel: float = math.nan


METRICS = ("psnr", "ssim", "ms_ssim", "perceptual", "frechet", "agreement")


@dataclass(frozen=True)
class Sweep:
    """What was measured.

    Attributes:
        means: a point a coder and setting.
        samples: the points behind them, one a picture or clip.
        note: what to keep in mind about the Fréchet distance, if anything.
    """

    means: tuple[RatePoint, ...]
    samples: tuple[RatePoint, ...]
    note: str = ""


def sweep(
    data: Dataset,
    coders: Sequence[Coder],
    judges: Judges | None = None,
    progress: bool | Report | None = None,
) -> Sweep:
    """Every sample through every coder at every setting.

    Args:
        data: the pictures or clips.
        coders: classical codecs, tokenizers.
        judges: without them, perceptual, Fréchet and agreement are NaN.
        progress: see `smalti.media.progress.track`.
    """
    points: list[RatePoint] = []
    originals: list[Tensor] = []
    results: dict[tuple[str, int], list[Tensor]] = {}
    for sample in track(data, f"measuring {', '.join(coder.name for coder in coders)}", len(data), progress):
        look = judges.look(_some_frames(sample.pixels)) if judges else None
        if look:
            originals.append(look.features)
        for coder in coders:
            for setting in coder.settings:
                coded = coder.round_trip(sample.pixels, setting, sample.fps)
                seen = judges.look(_some_frames(coded.pixels)) if judges else None
                points.append(_point(sample, coder.name, setting, coded, look, seen))
                if seen:
                    results.setdefault((coder.name, setting), []).append(seen.features)
    means = []
    note = ""
    for coder in coders:
        for setting in coder.settings:
            point = mean([p for p in points if (p.codec, p.setting) == (coder.name, setting)])
            if originals and sum(map(len, originals)) > 1:
                result = frechet(torch.cat(originals), torch.cat(results[coder.name, setting]))
                point, note = replace(point, frechet=result.distance), result.note
            means.append(point)
    return Sweep(tuple(means), tuple(points), note)


def mean(points: Sequence[RatePoint]) -> RatePoint:
    """The mean over samples of one coder at one setting; every sample counts the same.

    Raises:
        ConfigError: no points, or of several coders or settings.
    """
    if len({(point.codec, point.setting) for point in points}) != 1:
        raise ConfigError("a mean needs points of one coder at one setting")
    numbers = [f.name for f in fields(RatePoint) if f.name not in ("codec", "setting", "sample")]
    means = {name: fmean(getattr(point, name) for point in points) for name in numbers}
    return RatePoint(points[0].codec, points[0].setting, sample="", **means)


def at_rate(curve: Iterable[RatePoint], bits_per_pixel: float, metric: str) -> float:
    """A coder's figure at a rate: linear in the logarithm of the rate between its two nearest settings.

    NaN outside the measured range: a curve is never continued beyond its ends.
    """
    known = sorted((p.bits_per_pixel, getattr(p, metric)) for p in curve)
    for (rate, value), (next_rate, next_value) in pairwise(known):
        if rate <= bits_per_pixel <= next_rate:
            if rate == next_rate:
                return next_value
            share = math.log(bits_per_pixel / rate) / math.log(next_rate / rate)
            return value + share * (next_value - value)
    return math.nan


def at_equal_bits(points: Sequence[RatePoint], name: str) -> list[dict[str, Any]]:
    """Every other coder's figures at the rates of one, as rows for tables and JSON.

    Each row holds `setting` and `bits_per_pixel` of `name`, the other's name as `codec`, and for every
    metric the other's figure at that rate, NaN where it was not measured so low or high.
    """
    ours = [point for point in points if point.codec == name]
    others = dict.fromkeys(point.codec for point in points if point.codec != name)
    rows = []
    for point in ours:
        for other in others:
            curve = [p for p in points if p.codec == other]
            figures = {metric: at_rate(curve, point.bits_per_pixel, metric) for metric in METRICS}
            rows.append(
                {
                    "setting": point.setting,
                    "bits_per_pixel": point.bits_per_pixel,
                    "codec": other,
                    **figures,
                }
            )
    return rows


def _some_frames(pixels: Float[Tensor, "1 3 t h w"]) -> Float[Tensor, "n 3 h w"]:
    """At most `JUDGED_FRAMES` frames, evenly spread."""
    count = min(pixels.shape[2], JUDGED_FRAMES)
    places = [(2 * i + 1) * pixels.shape[2] // (2 * count) for i in range(count)]
    return pixels[0, :, places].transpose(0, 1)


def _point(
    sample: Sample, codec: str, setting: int, coded: Coded, original: Look | None, result: Look | None
) -> RatePoint:
    judged = {}
    if original and result:
        judged["perceptual"] = perceptual(original, result).mean().item()
        judged["agreement"] = agreement(original, result).mean().item()
    pixels = sample.pixels[:, 0].numel()
    return RatePoint(
        codec,
        setting,
        sample.name,
        float(coded.bytes),
        8 * coded.bytes / pixels,
        **fidelity(sample.pixels, coded.pixels),
        **judged,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        tokens=coded.tokens,
        index_bits_per_pixel=coded.index_bits / pixels,
    )
