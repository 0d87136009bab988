"""Rate-distortion curves as one picture: a panel a figure, a line a coder."""

from __future__ import annotations

import io
import math

from smalti.errors import missing_extra
from smalti.evaluation.report import Report
from smalti.evaluation.tables import FIGURES

COLOURS = ("#0b6e99", "#b5651d", "#5b8c3a", "#8e5aa8", "#888888", "#c0392b")


def plot(report: Report) -> str:
    """SVG. Only figures that were measured get a panel.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter, ScalarFormatter
    except ImportError as error:
        raise missing_extra("matplotlib", "eval") from error

    measured = [name for name in FIGURES if any(math.isfinite(getattr(p, name)) for p in report.points)]
    columns = min(3, len(measured))
    lines = -(-len(measured) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * lines), layout="constrained")
    FigureCanvasSVG(figure)
    for index, name in enumerate(measured, start=1):
        panel = figure.add_subplot(lines, columns, index)
        for place, codec in enumerate(dict.fromkeys(point.codec for point in report.points)):
            curve = sorted((p.bits_per_pixel, getattr(p, name)) for p in report.points if p.codec == codec)
            curve = [(rate, value) for rate, value in curve if math.isfinite(value)]
            panel.plot(
                [rate for rate, _ in curve],
                [value for _, value in curve],
                marker="o",
                markersize=3.5,
                linewidth=2.2 if place == 0 else 1.2,
                color=COLOURS[place % len(COLOURS)],
                label=codec,
                zorder=3 if place == 0 else 2,
            )
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(_ticks(report))
        panel.set_title(FIGURES[name][0], loc="left", fontsize=10)
        panel.set_xlabel("bits per pixel", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    if measured:
        figure.axes[0].legend(fontsize=8, frameon=False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "smalti", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _ticks(report: Report) -> list[float]:
    rates = [point.bits_per_pixel for point in report.points]
    steps = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
    return [step for step in steps if min(rates) <= step <= max(rates)]
