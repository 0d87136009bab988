"""The rows that a report prints, for the terminal and for the page."""

from __future__ import annotations

import math
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
    if not report.usage:
        return []
    body = [
        (
            str(index),
            f"{usage.size:,}",
            f"{usage.used:,}",
            f"{usage.used / usage.size:.1%}",
            f"{usage.perplexity:,.1f}",
        )
        for index, usage in enumerate(report.usage, start=1)
    ]
    return [Rows("Codebooks", ("codebook", "codes", "used", "share", "perplexity"), body)]


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
