"""What TokBench found: tables for the terminal, JSON, and a page.

```
Measured, Measured, … ──► TokBenchReport ──► rows (one table a setting), to_json, save
```
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from smalti.evaluation import page
from smalti.evaluation.tables import Rows
from smalti.evaluation.tokbench import Measured
from smalti.evaluation.tokbench_scores import SCALES, Buckets

SCHEMA = "smalti-tokbench 1"
LEGEND = (
    "Accuracy is the percentage of words that PP-OCRv4 reads exactly as in the original, which it read "
    "exactly; string similarity is 1 − edit distance / longer length; face similarity is the cosine of "
    "dlib's embeddings. The paper uses PARSeq and ArcFace, so figures compare only with figures of these "
    "judges on these pictures. All are by the size of characters or faces: small, medium, large; a mean "
    "is that of the three, and of the filled ones where one is empty (–). The tokenizer is given squares "
    "of the setting's side; bits per pixel count the bytes of whole files over these squares, PSNR is "
    "taken at the pictures' own size. “Resized only” is the most that a tokenizer can reach at that "
    "setting."
)


@dataclass(frozen=True)
class TokBenchReport:
    """Figures of several tokenizers on the same pictures.

    Attributes:
        measured: one a tokenizer and setting.
        strangers: mean cosine between different people.
        run: command, data with digest, machine, versions.
    """

    measured: tuple[Measured, ...]
    strangers: float
    run: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """How to read the figures."""
        if math.isnan(self.strangers):
            return [LEGEND]
        return [LEGEND, f"Different people in these pictures have a cosine of {self.strangers:.3f}."]

    def to_json(self) -> str:
        """JSON with every row; NaN and infinity stand as null."""
        content = {
            "schema": SCHEMA,
            "results": [_entry(each) for each in self.measured],
            "strangers": self.strangers,
            "notes": self.notes,
            "run": self.run,
        }
        return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, folder: Path) -> None:
        """Write `tokbench.json` and `index.html`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokbench.json").write_text(self.to_json() + "\n", "utf-8")
        count = self.run["data"]["count"]
        title = f"TokBench on {count} pictures"
        parts = [
            f"<h1>{escape(title)}</h1>",
            *map(page.table, rows(self)),
            "<h2>How to read this</h2>",
            *(f"<p>{escape(note)}</p>" for note in self.notes),
            f"<h2>Run</h2><pre>{escape(json.dumps(self.run, indent=1, ensure_ascii=False))}</pre>",
        ]
        (folder / "index.html").write_text(page.document(title, parts), "utf-8")


def rows(report: TokBenchReport) -> list[Rows]:
    """A table a setting, its tokenizers in the order of bits."""
    tables = []
    for setting in sorted({each.scores.setting for each in report.measured}):
        these = [each for each in report.measured if each.scores.setting == setting]
        first = these[0].scores
        words, faces = (" + ".join(map(str, counts)) for counts in (first.accuracy.counts, first.face.counts))
        head = (
            "tokenizer",
            "bits/pixel",
            "tokens",
            "PSNR dB",
            "words S",
            "M",
            "L",
            "mean %",
            "string",
            "faces S",
            "M",
            "L",
            "mean",
        )
        body = [
            (
                each.name,
                _number(each.bits_per_pixel, 3),
                _number(each.tokens, 0),
                _number(each.psnr, 2),
                *_scales(each.scores.accuracy, 1, 100),
                _number(each.scores.string.mean, 3),
                *_scales(each.scores.face, 3),
            )
            for each in sorted(these, key=lambda each: each.bits_per_pixel)
        ]
        tables.append(Rows(f"At {setting} pixels: {words} words, {faces} faces", head, body))
    return tables


def _entry(each: Measured) -> dict[str, Any]:
    found = each.scores
    return {
        "tokenizer": each.name,
        "quality": each.quality,
        "setting": found.setting,
        "tokens": each.tokens,
        "bits_per_pixel": each.bits_per_pixel,
        "psnr": each.psnr,
        "accuracy": _buckets(found.accuracy),
        "string_similarity": _buckets(found.string),
        "face_similarity": _buckets(found.face),
        "words": [row._asdict() for row in found.words],
        "faces": [row._asdict() for row in found.faces],
    }


def _buckets(found: Buckets) -> dict[str, Any]:
    return {
        "counts": dict(zip(SCALES, found.counts, strict=True)),
        "means": dict(zip(SCALES, found.means, strict=True)),
        "mean": found.mean,
        "empty": list(found.empty),
    }


def _scales(found: Buckets, digits: int, unit: int = 1) -> list[str]:
    return [_number(unit * value, digits) for value in (*found.means, found.mean)]


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
