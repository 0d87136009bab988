"""`Audit`: the result, as data, JSON, tables, plot and page.

```
Audit ──► to_json ⇄ from_json       Audit ──► tables (rich)       Audit ──► save ──► audit.json
                                                                                     curves.svg
                                                                                     index.html
```
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smalti.errors import FormatError
from smalti.evaluation.audit.cost import Speed
from smalti.evaluation.examples import Example
from smalti.evaluation.tables import Rows

SCHEMA = "smalti-audit 1"
FULL = "full"
NAN = math.nan
FIDELITY = {
    "cosine": ("cosine", 4),
    "cka": ("CKA", 4),
    "restored": ("restored", 4),
    "agreement": ("agreement", 3),
    "neighbours": ("k-NN", 3),
    "probe": ("probe", 3),
}
SELECTION = {
    "middle_row": ("middle row", 3),
    "middle_column": ("middle column", 3),
    "coverage": ("coverage", 3),
    "likeness": ("likeness", 3),
    "shift_overlap": ("1 px shift", 3),
    "noise_overlap": ("noise", 3),
    "seed_overlap": ("seeds", 3),
    "seed_spread": ("seed spread", 4),
    "adaptivity": ("adaptivity", 3),
}
LEGEND = (
    "FLOPs are multiply-adds of one picture, counted while the model runs, choosing tokens included. "
    "The bound is the speed-up that they allow; share of it is the measured speed-up over the bound. "
    "Times are medians with quartiles; the full and the reduced model ran by turns. "
    "Scoring is the share of the time between blocks: choosing and moving tokens. "
    "Cosine, CKA (linear, over pictures) and k-NN are of pooled features; k-NN leaves one out, within the "
    "reduced model's features. The probe is a linear classifier on the full model's features. "
    "Restored is the cosine of all tokens, brought back after the last block, with the full model's. "
    "Agreement is that of the most likely class, or of the nearest other picture where there are no classes. "
    "The middle is that of the tokens' places, 0.5 without bias; coverage is the mean distance of a patch to "
    "the nearest token, in patches; likeness is the mean cosine of two tokens that are left, lower is more "
    "diverse. Steadiness is the share of kept places that two runs have in common: after a shift by 1 pixel, "
    "after noise of 1/255, between seeds; the seeds' spread is the deviation of the cosine. "
    "Adaptivity is the rank correlation of the number of tokens with the bytes of the picture as JPEG."
)


@dataclass(frozen=True)
class Row:
    """One reducer at one budget, or the full model.

    Attributes:
        reducer: its name, or "full".
        keep: share of the tokens that was asked to be left at the end.
        beside: of a control, the reducer whose counts it has.
        counts: tokens after every block, those in front included.
        tokens: mean number of real tokens after the last block.
        flops: multiply-adds of one picture.
        bound: the full model's, over these.
        speeds: times, one a batch size.
        memory: most bytes of activations at once, for one picture.
        break_even: tokens from which on it is faster than the full model; NaN where not asked.
        cosine, cka, restored, agreement, neighbours, probe: see `LEGEND`; NaN where nothing can be.
        rows, columns: share of the tokens in every row and column of patches.
        middle_row, middle_column, coverage, likeness: see `LEGEND`.
        shift_overlap, noise_overlap, seed_overlap, seed_spread, adaptivity: see `LEGEND`.
    """

    reducer: str
    keep: float
    counts: tuple[int, ...]
    tokens: float
    flops: int
    bound: float
    speeds: tuple[Speed, ...]
    memory: int
    beside: str = ""
    break_even: float = NAN
    cosine: float = NAN
    cka: float = NAN
    restored: float = NAN
    agreement: float = NAN
    neighbours: float = NAN
    probe: float = NAN
    rows: tuple[float, ...] = ()
    columns: tuple[float, ...] = ()
    middle_row: float = NAN
    middle_column: float = NAN
    coverage: float = NAN
    likeness: float = NAN
    shift_overlap: float = NAN
    noise_overlap: float = NAN
    seed_overlap: float = NAN
    seed_spread: float = NAN
    adaptivity: float = NAN

    @property
    def title(self) -> str:
        """Its name, and for a control whose counts it has."""
        return f"{self.reducer} as {self.beside}" if self.beside else self.reducer


@dataclass(frozen=True)
class Audit:
    """What was measured, and everything needed to measure it again.

    Attributes:
        model: name, class, parameters, blocks, tokens, pixels a side.
        rows: the full model first, then every reducer at every budget with its controls.
        run: command, data with digest, seed, machine, versions, date, commit, seconds.
        notes: what to keep in mind, and what could not be measured and why.
        pictures: overlays for the page; not in the JSON.
    """

    model: dict[str, Any]
    rows: tuple[Row, ...]
    run: dict[str, Any]
    notes: tuple[str, ...] = ()
    pictures: tuple[Example, ...] = ()

    def tables(self) -> list[Rows]:
        """Cost, the times of every batch size, fidelity and choice of tokens."""
        return [
            self._cost(),
            *map(self._times, range(len(self.rows[0].speeds))),
            self._figures("What is left of the full model's answer", FIDELITY),
            self._figures("Which tokens are left, and how steadily", SELECTION),
        ]

    def _cost(self) -> Rows:
        asked = any(not math.isnan(row.break_even) for row in self.rows)
        head = ("reducer", "keep", "tokens", "GFLOPs", "bound", "MB", *(["pays from"] if asked else []))
        body = []
        for row in self.rows:
            cells = (row.title, f"{row.keep:g}", f"{row.tokens:,.1f}", f"{row.flops / 1e9:.3f}")
            cells = (*cells, f"{row.bound:.2f}×", f"{row.memory / 1e6:.1f}")
            body.append((*cells, number(row.break_even, 0)) if asked else cells)
        return Rows("What it costs", head, body)

    def _times(self, place: int) -> Rows:
        head = ("reducer", "keep", "ms", "quartiles", "full ms", "speed-up", "of the bound", "scoring")
        body = []
        for row in self.rows:
            speed = row.speeds[place]
            times = (speed.seconds, speed.low, speed.high, speed.full_seconds)
            middle, low, high, full = (f"{1e3 * value:.1f}" for value in times)
            cells = (row.title, f"{row.keep:g}", middle, f"{low}–{high}", full, f"{speed.speedup:.2f}×")
            body.append((*cells, f"{speed.share:.0%}", f"{speed.scoring:.1%}"))
        return Rows(f"Time for {self.rows[0].speeds[place].batch} at once", head, body)

    def _figures(self, title: str, figures: dict[str, tuple[str, int]]) -> Rows:
        shown = {n: f for n, f in figures.items() if any(not math.isnan(getattr(r, n)) for r in self.rows)}
        body = [
            (
                row.title,
                f"{row.keep:g}",
                *(number(getattr(row, n), digits) for n, (_, digits) in shown.items()),
            )
            for row in self.rows
        ]
        return Rows(title, ("reducer", "keep", *(name for name, _ in shown.values())), body)

    def to_json(self) -> str:
        """JSON; numbers that it cannot hold stand as "nan" and "inf", which `float` reads."""
        content = {
            "schema": SCHEMA,
            "model": self.model,
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "legend": LEGEND,
            "run": self.run,
        }
        return json.dumps(_writable(content), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """The audit again, without its pictures.

        Raises:
            FormatError: not an audit, or one of another schema.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"not an audit: {error}") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise FormatError(f"an audit has the schema {SCHEMA!r}, this has {schema!r}")
        return cls(
            content["model"], tuple(map(_row, content["rows"])), content["run"], tuple(content["notes"])
        )

    def save(self, folder: Path) -> None:
        """Write `audit.json`, `curves.svg` and `index.html`.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from smalti.evaluation.audit.page import page
        from smalti.evaluation.audit.plot import plot

        curves = plot(self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "audit.json").write_text(self.to_json() + "\n", "utf-8")
        (folder / "curves.svg").write_text(curves, "utf-8")
        (folder / "index.html").write_text(page(self, curves), "utf-8")


def number(value: float, digits: int) -> str:
    """A figure as tables print it."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def _row(entry: dict[str, Any]) -> Row:
    words = ("reducer", "beside")
    values = {k: float(v) if isinstance(v, str) and k not in words else v for k, v in entry.items()}
    for key in ("counts", "rows", "columns"):
        values[key] = tuple(entry[key])
    values["speeds"] = tuple(Speed(**speed) for speed in entry["speeds"])
    return Row(**values)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _writable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
