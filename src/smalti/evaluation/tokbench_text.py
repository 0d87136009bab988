"""Reading words in pictures: PP-OCRv4 as RapidOCR publishes it, run by onnxruntime.

```
crops [3 h w] ──► height 48, grey to a width of 320, 640, … ──► SVTR-LCNet ──► CTC ──► str
picture [3 h w] ──► sides in 32s ──► DB ──► probability of text ──► boxes
```
From "PP-OCRv4" (2023), "SVTR" (2022) and "Real-time Scene Text Detection with Differentiable Binarization"
(2020). TokBench itself reads with PARSeq; figures of two recognisers do not compare.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smalti.errors import missing_extra
from smalti.evaluation.tokbench_annotations import Box
from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.published import wheel
from smalti.training.corpora.unpack import Package

HEIGHT, STEP, WIDEST = 48, 320, 1280
BATCH = 16
SHORT_SIDE = 736
CELL = 4  # pixels of the map of text that are one while its parts are told apart
LIKELY, SURE, GROWTH = 0.3, 0.5, 1.6

RAPIDOCR = wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "Apache-2.0",
)


@runtime_checkable
class Recognizer(Protocol):
    """Reads words: whatever stands in for PARSeq."""

    @property
    def vocabulary(self) -> frozenset[str]:
        """The characters that it knows."""
        ...

    def __call__(self, crops: Sequence[Float[Tensor, "3 _h _w"]]) -> list[str]:
        """What each crop, RGB in [0, 1], says; empty where it reads nothing."""
        ...


class RapidOCR:
    """The recogniser of RapidOCR. The reading of a crop does not depend on the others.

    Raises:
        UnsupportedError: onnxruntime is not installed, or the package cannot be fetched.
        IntegrityError: the package is not the one that was published.
    """

    def __init__(self) -> None:
        self.session = _session("ch_PP-OCRv4_rec_infer.onnx")
        known = self.session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self.characters = ["", *known, " "]
        self.vocabulary = frozenset(self.characters[1:])

    def __call__(self, crops: Sequence[Float[Tensor, "3 _h _w"]]) -> list[str]:
        """What each crop says."""
        alike: dict[int, list[int]] = defaultdict(list)
        prepared = [_line(each) for each in crops]
        for place, each in enumerate(prepared):
            alike[each.shape[-1]].append(place)
        read = [""] * len(prepared)
        for places in alike.values():
            for start in range(0, len(places), BATCH):
                some = places[start : start + BATCH]
                batch = np.stack([prepared[place] for place in some])
                (likely,) = self.session.run(None, {"x": batch})
                for place, codes in zip(some, likely.argmax(2), strict=True):
                    read[place] = self._collapsed(codes)
        return read

    def _collapsed(self, codes: np.ndarray) -> str:
        """CTC: repeated codes are one, and blanks only part them."""
        new = np.concatenate([[True], codes[1:] != codes[:-1]])
        return "".join(self.characters[code] for code in codes[new]).strip()


class TextFinder:
    """The detector of RapidOCR, for lines that stand upright.

    Raises:
        UnsupportedError, IntegrityError: as `RapidOCR`.
    """

    def __init__(self) -> None:
        self.session = _session("ch_PP-OCRv4_det_infer.onnx")

    def __call__(self, picture: Float[Tensor, "3 h w"]) -> list[Box]:
        """Boxes of text, in pixels of the picture."""
        height, width = picture.shape[1:]
        scale = max(SHORT_SIDE / min(height, width), 1)
        sides = [max(round(side * scale / 32), 1) * 32 for side in (height, width)]
        shown = F.interpolate(picture[None].flip(1), sides, mode="bilinear", antialias=True)
        (found,) = self.session.run(None, {"x": (shown * 2 - 1).numpy()})
        likely = torch.from_numpy(found)[0, 0]
        stretch = (width / sides[1], height / sides[0])
        return [_grown(box, stretch, height, width) for box in _parts(likely)]


def _session(file: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "hosts") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    content = _package().read(f"rapidocr_onnxruntime/models/{file}")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@cache
def _package() -> Package:
    return Package(fetch(RAPIDOCR))


def _line(picture: Float[Tensor, "3 h w"]) -> np.ndarray:
    """BGR in [-1, 1], 48 pixels high; the aspect is kept up to the greatest width."""
    height, width = picture.shape[1:]
    wide = min(max(math.ceil(HEIGHT * width / height), 1), WIDEST)
    line = F.interpolate(picture[None].flip(1), (HEIGHT, wide), mode="bilinear", antialias=True)[0]
    return F.pad(line * 2 - 1, (0, -wide % STEP)).numpy()


def _parts(likely: Float[Tensor, "h w"]) -> list[tuple[int, int, int, int]]:
    """Boxes around the connected parts of what is likely text, in pixels of the map."""
    cells = F.max_pool2d(likely[None, None], CELL)[0, 0] > LIKELY
    number = torch.arange(1, cells.numel() + 1, dtype=torch.float32).view_as(cells) * cells
    while True:
        spread = F.max_pool2d(number[None, None], 3, stride=1, padding=1)[0, 0] * cells
        if torch.equal(spread, number):
            break
        number = spread
    boxes = []
    for part in number.unique():
        rows, columns = (number == part).nonzero(as_tuple=True)
        top, left = int(rows.min()) * CELL, int(columns.min()) * CELL
        bottom, right = (int(rows.max()) + 1) * CELL, (int(columns.max()) + 1) * CELL
        inside = likely[top:bottom, left:right]
        text = inside > LIKELY
        if part > 0 and text.any() and inside[text].mean() >= SURE:
            boxes.append((left, top, right, bottom))
    return boxes


def _grown(box: tuple[int, int, int, int], stretch: tuple[float, float], height: int, width: int) -> Box:
    """DB finds the cores of lines: every side moves out by area × 1.6 / perimeter."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    out = wide * high * GROWTH / (2 * (wide + high))
    x, y = stretch
    return (
        max((left - out) * x, 0.0),
        max((top - out) * y, 0.0),
        min((right + out) * x, float(width)),
        min((bottom + out) * y, float(height)),
    )
