"""An audit as one picture: a panel a figure, a line a reducer, dashed lines for the controls."""

from __future__ import annotations

import io
import math

from smalti.errors import missing_extra
from smalti.evaluation.audit.report import FIDELITY, FULL, Audit
from smalti.evaluation.plot import COLOURS


def plot(audit: Audit) -> str:
    """SVG. The first panels show time, the others what is left of the answer, over the share of FLOPs.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "eval") from error

    panels = _panels(audit)
    lines = dict.fromkeys(row.title for row in audit.rows if row.reducer != FULL)
    methods = [title for title in lines if not _is_control(audit, title)]
    columns = min(3, len(panels))
    figure = Figure(figsize=(4.2 * columns, 3.3 * -(-len(panels) // columns)), layout="constrained")
    FigureCanvasSVG(figure)
    for place, (title, value) in enumerate(panels.items(), start=1):
        panel = figure.add_subplot(-(-len(panels) // columns), columns, place)
        for line in lines:
            rows = [row for row in audit.rows if row.title == line]
            method = rows[0].beside or line
            points = sorted((100 / row.bound, value(row)) for row in rows if math.isfinite(value(row)))
            panel.plot(
                [share for share, _ in points],
                [height for _, height in points],
                marker="o",
                markersize=3.5,
                linewidth=1.8 if line == method else 1.0,
                linestyle="-" if line == method else ("--" if line.startswith("random") else ":"),
                color=COLOURS[methods.index(method) % len(COLOURS)],
                label=line,
            )
        if title.startswith("Speed-up"):
            shares = sorted(100 / row.bound for row in audit.rows)
            bound = [100 / share for share in shares]
            panel.plot(shares, bound, color="#999999", linewidth=1, label="bound of the arithmetic")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("% of the full model's FLOPs", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "smalti", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _panels(audit: Audit):
    """Title → how to read the figure from a row, for all that was measured."""
    panels = {}
    for place, speed in enumerate(audit.rows[0].speeds):
        panels[f"Speed-up at batch {speed.batch}"] = lambda row, place=place: row.speeds[place].speedup
    for name, (title, _) in FIDELITY.items():
        if any(math.isfinite(getattr(row, name)) for row in audit.rows if row.reducer != FULL):
            panels[title] = lambda row, name=name: getattr(row, name)
    return panels


def _is_control(audit: Audit, title: str) -> bool:
    return any(row.title == title and row.beside for row in audit.rows)
