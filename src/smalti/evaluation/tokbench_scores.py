"""What TokBench counts: words read right, characters read right, faces still the same, by scale.

```
reading, label ──► accuracy, similarity of strings ─┐
                                                     ├──► buckets of scale ──► mean of each ──► their mean
embedding, embedding ──► cosine ────────────────────┘
```
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError

Kind = Literal["text", "face"]
Bounds = tuple[float, float, float, float]

SCALES = ("small", "medium", "large")
BOUNDS: dict[int, dict[Kind, Bounds]] = {
    256: {"text": (0.02, 0.03, 0.04, 1.0), "face": (0.0, 0.1, 0.2, 1.0)},
    512: {"text": (0.01, 0.02, 0.03, 1.0), "face": (0.0, 0.05, 0.2, 1.0)},
    1024: {"text": (0.005, 0.01, 0.02, 1.0), "face": (0.0, 0.05, 0.1, 1.0)},
}
SETTINGS = tuple(BOUNDS)


class TextRow(NamedTuple):
    """One word.

    Attributes:
        sample: the picture's name.
        label, reading: what it says, and what was read in the reconstruction.
        ratio: see `tokbench_annotations`.
        accuracy: 1 if they are equal, capitals included.
        similarity: 1 − edit distance / the longer one's length.
    """

    sample: str
    label: str
    reading: str
    ratio: float
    accuracy: int
    similarity: float


class FaceRow(NamedTuple):
    """One face: cosine of the embeddings in original and reconstruction."""

    sample: str
    ratio: float
    similarity: float


class Buckets(NamedTuple):
    """A figure by scale.

    Attributes:
        counts: words or faces in each bucket.
        means: of the figure in each; NaN in an empty one.
    """

    counts: tuple[int, ...]
    means: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the means: every bucket counts the same, an empty one not at all; NaN if all are empty."""
        filled = [value for value in self.means if not math.isnan(value)]
        return fmean(filled) if filled else math.nan

    @property
    def empty(self) -> tuple[str, ...]:
        """The scales that nothing fell into."""
        return tuple(name for name, count in zip(SCALES, self.counts, strict=True) if not count)


def edit_distance(first: str, second: str) -> int:
    """Least number of characters to insert, delete or replace (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def string_similarity(reading: str, label: str) -> float:
    """1 for equal strings, 0 where nothing is in common; two empty strings are equal."""
    longer = max(len(reading), len(label))
    return 1 - edit_distance(reading, label) / longer if longer else 1.0


def text_row(sample: str, label: str, reading: str, ratio: float) -> TextRow:
    """A word compared with its label."""
    return TextRow(sample, label, reading, ratio, int(reading == label), string_similarity(reading, label))


def face_similarity(
    original: Float[Tensor, "n d"], reconstruction: Float[Tensor, "n d"]
) -> Float[Tensor, "n"]:
    """Cosine of the embeddings."""
    return torch.cosine_similarity(original, reconstruction, dim=1)


def bounds(setting: int, kind: Kind) -> Bounds:
    """Edges of the buckets: closed to the left, open to the right.

    Raises:
        ConfigError: a setting that TokBench does not have.
    """
    if setting not in BOUNDS:
        raise ConfigError(f"no setting {setting}: TokBench has {', '.join(map(str, BOUNDS))}")
    return BOUNDS[setting][kind]


def bucket(ratio: float, setting: int, kind: Kind) -> int | None:
    """0 small, 1 medium, 2 large; none outside all of them."""
    edges = bounds(setting, kind)
    for place in range(3):
        if edges[place] <= ratio < edges[place + 1]:
            return place
    return None


def by_scale(ratios: Iterable[float], values: Iterable[float], setting: int, kind: Kind) -> Buckets:
    """The mean in every bucket; what lies outside all of them is dropped."""
    parts: tuple[list[float], ...] = ([], [], [])
    for ratio, value in zip(ratios, values, strict=True):
        place = bucket(ratio, setting, kind)
        if place is not None:
            parts[place].append(value)
    return Buckets(tuple(map(len, parts)), tuple(fmean(part) if part else math.nan for part in parts))


class Scores(NamedTuple):
    """What one reconstruction of the data scores at one setting.

    Attributes:
        setting: pixels a side at which the tokenizer worked.
        accuracy: T-ACC.
        string: T-NED, as a similarity.
        face: F-Sim.
        words, faces: the rows behind them.
    """

    setting: int
    accuracy: Buckets
    string: Buckets
    face: Buckets
    words: tuple[TextRow, ...]
    faces: tuple[FaceRow, ...]


def scores(words: Sequence[TextRow], faces: Sequence[FaceRow], setting: int) -> Scores:
    """Rows gathered by scale.

    Raises:
        ConfigError: a setting that TokBench does not have.
    """
    sizes = [row.ratio for row in words]
    return Scores(
        setting,
        by_scale(sizes, (row.accuracy for row in words), setting, "text"),
        by_scale(sizes, (row.similarity for row in words), setting, "text"),
        by_scale((row.ratio for row in faces), (row.similarity for row in faces), setting, "face"),
        tuple(words),
        tuple(faces),
    )
