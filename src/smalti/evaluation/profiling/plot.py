"""A profile as one picture: a panel a cost, a line a contender, a ring where it becomes the cheaper one."""

from __future__ import annotations

import io
import math

from smalti.errors import missing_extra
from smalti.evaluation.plot import COLOURS
from smalti.evaluation.profiling.report import Profile

STYLES = ("-", "--", ":")


def plot(profile: Profile) -> str:
    """SVG, both axes logarithmic; the plain contender is black.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, NullFormatter
    except ImportError as error:
        raise missing_extra("matplotlib", "eval") from error

    figures = profile.figures()
    counts = sorted({point.tokens for line in profile.lines for point in line.points})
    columns = 2
    rows = -(-len(figures) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows + 0.9), layout="constrained")
    FigureCanvasSVG(figure)
    for place, (title, cost) in enumerate(figures.items(), start=1):
        panel = figure.add_subplot(rows, columns, place)
        for number, line in enumerate(profile.lines):
            costs = line.costs(cost)
            colour = COLOURS[(number - 1) % len(COLOURS)] if number else "black"
            panel.plot(
                list(costs),
                list(costs.values()),
                marker="o",
                markersize=3,
                linewidth=1.5 if number else 2.4,
                linestyle=STYLES[(number - 1) // len(COLOURS) % len(STYLES)] if number else "-",
                color=colour,
                label=line.name,
            )
            tokens = profile.crossings(line)[title]
            if number and costs and min(costs) < tokens < math.inf:
                panel.plot(
                    [tokens], [_between(costs, tokens)], "o", markersize=9, color=colour, fillstyle="none"
                )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(counts)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("tokens", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "smalti", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _between(costs: dict[int, float], tokens: float) -> float:
    """A cost between two counts, linear in logarithms."""
    counts = sorted(costs)
    high = next(count for count in counts if count >= tokens)
    low = max(count for count in counts if count < tokens)
    share = math.log(tokens / low) / math.log(high / low)
    return costs[low] * (costs[high] / costs[low]) ** share
