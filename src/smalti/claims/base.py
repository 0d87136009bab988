"""The contract of claims: a function that measures, and a finding that says whether the claim holds.

```
smalti reproduce NAME ──► @claim function(Lab) ──► Finding(verdict, figure, rows, plot)
                                                      └──► results/NAME.json, results/NAME.png
```
A claim that does not hold at this scale is reported as such: the verdict is computed from the numbers.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from smalti.errors import ConfigError, missing_extra, nearest
from smalti.evaluation.environment import describe

HOLDS, FAILS = "holds", "does not hold"


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Attributes:
        statements: every part of the claim, as tested here, and whether it held.
        figure: the numbers behind the verdict, in one line.
        rows: every measurement.
        data: what was measured on.
        notes: what differs from the paper's setting, and what was tried.
        draw: puts a picture of the rows on matplotlib axes.
    """

    statements: Mapping[str, bool]
    figure: str
    rows: Sequence[Mapping[str, Any]]
    data: str
    notes: str = ""
    draw: Callable[[Any], None] | None = field(default=None, compare=False)

    @property
    def verdict(self) -> str:
        """Whether all parts held, none, or which."""
        held = [text for text, true in self.statements.items() if true]
        if len(held) == len(self.statements):
            return HOLDS
        return FAILS if not held else f"holds in {len(held)} of {len(self.statements)} parts"


@dataclass(frozen=True)
class Lab:
    """What an experiment may use.

    Attributes:
        seeds: of training and noise; results are means over them.
        quick: only show that the experiment runs: few steps, little data, a verdict that means nothing.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False

    def some(self, whole: int, quick: int) -> int:
        """A number of steps or samples: the whole, or few of them for a quick run."""
        return quick if self.quick else whole


@dataclass(frozen=True)
class Claim:
    """Attributes:
    name: of the system.
    minutes: that the experiment takes on two cores.
    run: the experiment.
    """

    name: str
    minutes: float | int
    run: Callable[[Lab], Finding]


_claims: dict[str, Claim] = {}


def claim(
    name: str, *, minutes: float | int
) -> Callable[[Callable[[Lab], Finding]], Callable[[Lab], Finding]]:
    """Register the decorated experiment under its system's name."""

    def register(run: Callable[[Lab], Finding]) -> Callable[[Lab], Finding]:
        if name in _claims:
            raise ConfigError(f"two claims of {name!r}")
        _claims[name] = Claim(name, minutes, run)
        return run

    return register


def claims() -> dict[str, Claim]:
    """Every claim that can be reproduced, by name."""
    package = importlib.import_module("smalti.claims")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"smalti.claims.{module.name}")
    return dict(sorted(_claims.items()))


def reproduce(
    name: str, folder: str | os.PathLike[str] = "results", *, seeds: int = 3, quick: bool = False
) -> Path:
    """Run the experiment of one claim and write what it found.

    Args:
        name: of the system.
        folder: for `NAME.json` and `NAME.png`.
        seeds: how many.
        quick: only show that it runs.

    Returns:
        The JSON file.

    Raises:
        ConfigError: no such claim.
        UnsupportedError: a library or package that the experiment needs is missing.
    """
    known = claims()
    if name not in known:
        raise ConfigError(f"no claim of {name!r}: {nearest(name, known)}")
    torch.manual_seed(0)
    began = time.monotonic()
    finding = known[name].run(Lab(tuple(range(seeds)), quick))
    record = describe(
        command=f"smalti reproduce {name}" + (" --quick" if quick else "") + f" --seeds {seeds}",
        seed=seeds,
        seconds=time.monotonic() - began,
        data={"name": finding.data},
    )
    found = {key: value for key, value in asdict(finding).items() if key not in ("draw", "data")}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps({"claim": name, "verdict": finding.verdict, **found, "run": record}, indent=1)
    if finding.draw is not None:
        _picture(finding, name, folder / f"{name}.png")
    path.write_text(text + "\n")
    return path


def _picture(finding: Finding, name: str, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "eval") from error
    assert finding.draw is not None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    finding.draw(axes)
    axes.set_title(f"{name}: {finding.verdict}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
