"""Curves of the classical codecs, measured once for every data set and kept.

```
data set's digest + codec's description + versions ──► ~/.cache/smalti/curves/<digest>.json ──there?──► Sweep
                                                                     │ not there
                                                                     └──► measure ──► write
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import av
import PIL

from smalti.errors import UnsupportedError
from smalti.evaluation.codecs import Codec, codecs_for
from smalti.evaluation.dataset import Dataset
from smalti.evaluation.judges import EFFICIENTNET, Judges
from smalti.evaluation.rate_distortion import RatePoint, Sweep, sweep
from smalti.media.progress import Report
from smalti.training.corpora.fetch import cache_home
from smalti.training.losses.vgg import VGG16

MEASURE = 1  # raise it when the same pixels would get other figures


def classical(
    data: Dataset, judges: Judges | None = None, progress: bool | Report | None = None
) -> tuple[Sweep, list[str]]:
    """The curves of every codec for this kind of data, and why some codecs have none.

    Raises:
        MediaError: a sample that cannot be read.
    """
    curves, missing = [], []
    for codec in codecs_for(2 if data.kind == "clip" else 1):
        try:
            curves.append(_curve(data, codec, judges, progress))
        except UnsupportedError as error:
            missing.append(str(error))
    return (
        Sweep(
            tuple(point for curve in curves for point in curve.means),
            tuple(point for curve in curves for point in curve.samples),
            curves[0].note if curves else "",
        ),
        missing,
    )


def _curve(data: Dataset, codec: Codec, judges: Judges | None, progress: bool | Report | None) -> Sweep:
    path = cache_home() / "curves" / f"{_key(data, codec, judges is not None)}.json"
    if path.exists():
        return _read(path)
    curve = sweep(data, [codec], judges, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part-{os.getpid()}")
    part.write_text(json.dumps(dataclasses.asdict(curve)))
    os.replace(part, path)
    return curve


def _read(path: Path) -> Sweep:
    content: dict[str, Any] = json.loads(path.read_text())
    means, samples = (tuple(RatePoint(**point) for point in content[part]) for part in ("means", "samples"))
    return Sweep(means, samples, content["note"])


def _key(data: Dataset, codec: Codec, judged: bool) -> str:
    weights = [published.package.sha256 for published in (VGG16, EFFICIENTNET)] if judged else []
    facts = [MEASURE, data.digest, codec.name, codec.how, codec.settings, weights, av.__version__]
    return hashlib.sha256(json.dumps([*facts, PIL.__version__]).encode()).hexdigest()[:24]
