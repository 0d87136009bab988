"""The rows that a report prints, for the terminal and for the page."""

from __future__ import annotations

import math
from statistics import mean
from typing import NamedTuple

from rich.table import Table

from smalti.evaluation.report import Report

FIGURES = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 4),
    "ms_ssim": ("MS-SSIM", 4),
    "perceptual": ("perceptual", 3),
    "frechet": ("Fréchet", 1),
    "agreement": ("agreement", 3),
}


class Rows(NamedTuple):
    """A table before it is drawn: the first column is text, the others are numbers."""

    title: str
    head: tuple[str, ...]
    body: list[tuple[str, ...]]


def rows(report: Report) -> list[Rows]:
    """The tokenizer's curve, the codecs at its rates, and the use of its codebooks."""
    return [_curve(report), _equal_bits(report), *_usage(report)]


def table(content: Rows) -> Table:
    """For a rich console."""
    drawn = Table(title=content.title, title_justify="left", header_style="bold")
    for index, name in enumerate(content.head):
        drawn.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in content.body:
        drawn.add_row(*row)
    return drawn


def _curve(report: Report) -> Rows:
    data = report.run["data"]
    head = (
        "quality",
        "bits/pixel",
        "of indices",
        "tokens",
        *(title for title, _ in FIGURES.values()),
        "encode s",
        "decode s",
    )
    body = [
        (
            str(point.setting),
            _number(point.bits_per_pixel, 4),
            _number(point.index_bits_per_pixel, 4),
            _number(point.tokens, 0),
            *(_number(getattr(point, name), digits) for name, (_, digits) in FIGURES.items()),
            _number(point.encode_seconds, 3),
            _number(point.decode_seconds, 3),
        )
        for point in report.ours
    ]
    return Rows(f"{report.tokenizer['name']} on {data['count']} {data['kind']}s", head, body)


def _equal_bits(report: Report) -> Rows:
    ours = {point.setting: point for point in report.ours}
    name = report.tokenizer["name"]
    head = (
        "at the bits of",
        "bits/pixel",
        "codec",
        *(title for title, _ in FIGURES.values()),
        f"{name} − codec",
    )
    body = []
    for row in report.at_equal_bits():
        point = ours[row["setting"]]
        difference = point.psnr - row["psnr"]
        body.append(
            (
                f"quality {row['setting']}",
                _number(row["bits_per_pixel"], 4),
                row["codec"],
                *(_number(row[name], digits) for name, (_, digits) in FIGURES.items()),
                "–" if math.isnan(difference) else f"{difference:+.2f} dB",
            )
        )
    return Rows("The codecs at equal bits", head, body)


def _usage(report: Report) -> list[Rows]:
    """Means over the codebooks that every stage adds."""
    body, first = [], 0
    for stage, last in enumerate(report.tokenizer["stages"], start=1):
        added = report.usage[first:last]
        if added:
            shares = [usage.used / usage.size for usage in added]
            body.append(
                (
                    str(stage),
                    _span(first + 1, first + len(added)),
                    _span(*sorted({usage.size for usage in added})),
                    f"{mean(shares):.1%}",
                    f"{mean(usage.perplexity for usage in added):,.1f}",
                )
            )
        first = last
    head = ("stage", "codebooks", "codes", "used", "perplexity")
    return [Rows("Codebooks, means over those of a stage", head, body)] if body else []


def _span(*numbers: int) -> str:
    first, last = numbers[0], numbers[-1]
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
