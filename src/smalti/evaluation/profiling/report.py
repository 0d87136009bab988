"""`Profile`: the result, as data, JSON, tables and curves.

```
Profile ──► to_json       Profile ──► tables (rich)       Profile ──► save ──► profile.json, curves.svg
```
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smalti.evaluation.profiling.clock import Time
from smalti.evaluation.profiling.growth import crossing, exponent
from smalti.evaluation.tables import Rows

SCHEMA = "smalti-profile 1"
LEGEND = (
    "Tokens are patches of 16 × 16 pixels of one picture or clip, or those that a mixer is given; one at a "
    "time. FLOPs are multiply-adds of products, counted while it runs, without FFTs, norms and activations. "
    "Times are medians of runs by turns, in processor time on one thread and wall time on more. Memory is "
    "that of tensors alive at once, without weights and input. Energy is 3.7 pJ a multiplication and 0.9 pJ "
    "an addition. Growth is the exponent of tokens over the upper half of the counts. Cheaper from is the "
    "number of tokens from which on it costs less than the first line, interpolated in logarithms; null if "
    "not up to the most tokens that both were measured on."
)


@dataclass(frozen=True)
class Point:
    """What so many tokens cost.

    Attributes:
        tokens: patches of 16 × 16 pixels, or tokens.
        flops: multiply-adds.
        memory: most bytes of activations at once.
        times: one for every number of threads.
        joules: where they can be counted.
    """

    tokens: int
    flops: int
    memory: int
    times: tuple[Time, ...]
    joules: float | None = None


@dataclass(frozen=True)
class Line:
    """A contender over counts of tokens, in order.

    Attributes:
        name: as tables print it.
        parameters: numbers to be learned.
        note: what is in it.
        points: those that were measured.
    """

    name: str
    parameters: int
    note: str
    points: tuple[Point, ...]

    def costs(self, cost: Callable[[Point], float]) -> dict[int, float]:
        """One cost by tokens."""
        return {point.tokens: cost(point) for point in self.points}


@dataclass(frozen=True)
class Profile:
    """What was measured, and everything needed to measure it again.

    Attributes:
        subject: name, preset.
        lines: the plain one first, to which the others are compared.
        run: command, seed, machine, versions, date, commit, seconds.
        notes: what could not be measured and why.
    """

    subject: dict[str, Any]
    lines: tuple[Line, ...]
    run: dict[str, Any]
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, Callable[[Point], float]]:
        """Title → how to read a cost from a point, for all that was measured."""
        first = next(point for line in self.lines for point in line.points)
        found: dict[str, Callable[[Point], float]] = {"GFLOPs": lambda point: point.flops / 1e9}
        for place, time in enumerate(first.times):
            found[time_title(time.threads)] = lambda point, place=place: 1e3 * point.times[place].seconds
        found["MB"] = lambda point: point.memory / 1e6
        if first.joules is not None:
            found["mJ"] = lambda point: 1e3 * (point.joules or math.nan)
        return found

    def growth(self, line: Line) -> dict[str, float]:
        """Exponents of every cost."""
        return {title: exponent(line.costs(cost)) for title, cost in self.figures().items()}

    def crossings(self, line: Line) -> dict[str, float]:
        """Tokens from which on every cost is smaller than that of the first line; see `growth.crossing`."""
        plain = self.lines[0]
        return {title: crossing(plain.costs(c), line.costs(c)) for title, c in self.figures().items()}

    def tables(self) -> list[Rows]:
        """Growth and crossings, then one table a cost."""
        counts = sorted({point.tokens for line in self.lines for point in line.points})
        titles = tuple(self.figures())
        growth, cheaper = [], []
        for line in self.lines:
            powers, crossings = self.growth(line), self.crossings(line)
            growth.append((line.name, f"{line.parameters:,}", *(_figure(powers[title]) for title in titles)))
            cheaper.append((line.name, *(self._from(line, crossings[title]) for title in titles)))
        found = [
            Rows("Growth: exponent of tokens", (self.subject["name"], "parameters", *titles), growth),
            Rows(f"Cheaper than {self.lines[0].name} from so many tokens on", ("", *titles), cheaper[1:]),
        ]
        for title, cost in self.figures().items():
            costs = [(line.name, line.costs(cost)) for line in self.lines]
            rows = [(name, *(_figure(by.get(n)) for n in counts)) for name, by in costs]
            found.append(Rows(title, ("tokens", *(f"{n:,}" for n in counts)), rows))
        return found

    def _from(self, line: Line, tokens: float) -> str:
        common = {p.tokens for p in self.lines[0].points} & {p.tokens for p in line.points}
        if not common:
            return "–"
        if math.isinf(tokens):
            return f"not to {max(common):,}"
        return f"≤ {min(common):,}" if tokens <= min(common) else f"{tokens:,.0f}"

    def to_json(self) -> str:
        """JSON; null stands for what has no number."""
        lines = [
            {
                **asdict(line),
                "growth": _finite(self.growth(line)),
                "cheaper_from": None if line is self.lines[0] else _finite(self.crossings(line)),
            }
            for line in self.lines
        ]
        content = {
            "schema": SCHEMA,
            "subject": self.subject,
            "lines": lines,
            "notes": list(self.notes),
            "legend": LEGEND,
            "run": self.run,
        }
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Write `profile.json` and `curves.svg`.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from smalti.evaluation.profiling.plot import plot

        curves = plot(self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "profile.json").write_text(self.to_json() + "\n", "utf-8")
        (folder / "curves.svg").write_text(curves, "utf-8")


def time_title(threads: int) -> str:
    """What a table of times is called."""
    return f"ms, {threads} thread{'s' * (threads > 1)}"


def _figure(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
