"""Tokenizers that were measured on the same data, in one table.

```
Report, Report, … ──► by data (digest) ──► Board: tokenizers and qualities, sorted ──► rows, JSON, page
```
Reports of different data never share a table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from smalti.errors import ConfigError, nearest
from smalti.evaluation import page
from smalti.evaluation.rate_distortion import METRICS, RatePoint, at_rate
from smalti.evaluation.report import LEGEND, Report
from smalti.evaluation.tables import FIGURES, Rows

SCHEMA = "smalti-leaderboard 1"
LOWER_IS_BETTER = ("perceptual", "frechet", "bits_per_pixel", "tokens")
KEYS = (*METRICS, "bits_per_pixel", "tokens")
NOTES = (
    "Bits per pixel of tokenizers count the bytes of whole token files; those of published reconstructions "
    "count their continuous latents at 16 bits a number, without entropy coding. “Best codec” is the highest "
    "PSNR that JPEG, WebP, AVIF or a video codec reaches with as many bits or fewer on the same data.",
    LEGEND,
)


@dataclass(frozen=True)
class Entry:
    """One tokenizer at one quality.

    Attributes:
        name, quality: who, and how.
        parameters: NaN where they are not known.
        bits_per_pixel, tokens: what it spends.
        psnr, ssim, ms_ssim, perceptual, frechet, agreement: see `smalti.evaluation.metrics` and `judges`.
        codec_psnr: highest of a classical codec with as many bits or fewer; NaN where none was measured.
    """

    name: str
    quality: int
    parameters: float
    bits_per_pixel: float
    tokens: float
    psnr: float
    ssim: float
    ms_ssim: float
    perceptual: float
    frechet: float
    agreement: float
    codec_psnr: float


@dataclass(frozen=True)
class Board:
    """Everything measured on one set of data.

    Attributes:
        data: kind, count, names and SHA-256.
        entries: sorted.
    """

    data: dict[str, Any]
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """What the data are, in a line."""
        names = self.data["names"]
        return f"{self.data['count']} {self.data['kind']}s, {names[0]} to {names[-1]}"


def leaderboard(reports: Sequence[Report], sort: str = "psnr") -> list[Board]:
    """A board for every set of data, the one with most entries first.

    Args:
        reports: of `smalti.evaluation.evaluate` and `peers.peer_reports`; of two with the same tokenizer and
            quality the later one counts.
        sort: a figure, best first, or `bits_per_pixel` or `tokens`, fewest first.

    Raises:
        ConfigError: no reports, or no such figure.
    """
    if sort not in KEYS:
        raise ConfigError(f"no figure {sort!r} to sort by: {nearest(sort, KEYS)}")
    if not reports:
        raise ConfigError("a leaderboard needs reports: run smalti evaluate TOKENIZER DATA -o FOLDER first")
    groups: dict[str, list[Report]] = {}
    for report in sorted(reports, key=lambda report: report.run["date"]):
        groups.setdefault(report.run["data"]["sha256"], []).append(report)
    boards = [_board(group, sort) for group in groups.values()]
    return sorted(boards, key=lambda board: -len(board.entries))


def rows(boards: Sequence[Board]) -> list[Rows]:
    """A table a board."""
    titles = [title for title, _ in FIGURES.values()]
    head = ("tokenizer", "quality", "parameters", "bits/pixel", "tokens", *titles, "best codec dB")
    return [
        Rows(
            board.title,
            head,
            [
                (
                    entry.name,
                    str(entry.quality),
                    _number(entry.parameters, 0),
                    _number(entry.bits_per_pixel, 3),
                    _number(entry.tokens, 0),
                    *(_number(getattr(entry, name), digits) for name, (_, digits) in FIGURES.items()),
                    _number(entry.codec_psnr, 2),
                )
                for entry in board.entries
            ],
        )
        for board in boards
    ]


def to_json(boards: Sequence[Board]) -> str:
    """JSON; what was not measured is null."""
    content = {
        "schema": SCHEMA,
        "boards": [
            {"data": board.data, "entries": [_finite(asdict(entry)) for entry in board.entries]}
            for board in boards
        ],
        "notes": list(NOTES),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def save(boards: Sequence[Board], folder: Path) -> None:
    """Write `leaderboard.json` and `index.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leaderboard.json").write_text(to_json(boards) + "\n", "utf-8")
    parts = [
        "<h1>Tokenizers on the same data</h1>",
        *map(page.table, rows(boards)),
        "<h2>How to read this</h2>",
        *(f"<p>{escape(note)}</p>" for note in NOTES),
    ]
    (folder / "index.html").write_text(page.document("Tokenizers on the same data", parts), "utf-8")


def read_reports(paths: Sequence[Path]) -> list[Report]:
    """Reports from files, and from every `report.json` below folders.

    Raises:
        ConfigError: nothing there.
        FormatError: a file that is not a report.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.rglob("report.json")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise ConfigError(f"{path}: no report.json: smalti evaluate TOKENIZER DATA -o FOLDER writes one")
        files += found
    return [Report.from_json(path.read_text("utf-8")) for path in files]


def _board(reports: Sequence[Report], sort: str) -> Board:
    codecs = {
        (point.codec, point.setting): point
        for report in reports
        for point in report.points
        if point.codec != report.tokenizer["name"]
    }
    curves: dict[str, list[RatePoint]] = {}
    for point in codecs.values():
        curves.setdefault(point.codec, []).append(point)
    entries = {
        (point.codec, point.setting): _entry(report, point, list(curves.values()))
        for report in reports
        for point in report.ours
    }

    def place(entry: Entry) -> tuple[bool, float]:
        value = getattr(entry, sort)
        return math.isnan(value), value if sort in LOWER_IS_BETTER else -value

    return Board(reports[0].run["data"], tuple(sorted(entries.values(), key=place)))


def _entry(report: Report, point: RatePoint, curves: Sequence[list[RatePoint]]) -> Entry:
    beside = [at_rate(curve, point.bits_per_pixel, "psnr") for curve in curves]
    beside += [each.psnr for curve in curves for each in curve if each.bits_per_pixel <= point.bits_per_pixel]
    return Entry(
        point.codec,
        point.setting,
        float(report.tokenizer["parameters"]),
        point.bits_per_pixel,
        point.tokens,
        **{name: getattr(point, name) for name in METRICS},
        codec_psnr=max((value for value in beside if not math.isnan(value)), default=math.nan),
    )


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }
