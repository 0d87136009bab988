"""What the benchmarks share: a tokenizer, a film, a stopwatch, and the record of a run.

```
contestants ── interleaved ──► Timing each ──► table on the screen
                                          └──► record ──► results/benchmarks/NAME.json
```
"""

from __future__ import annotations

import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import smalti
from smalti import media
from smalti.evaluation.environment import describe
from smalti.tokenizers.mosaic import Mosaic
from smalti.training.context import ContextObjective
from smalti.weights import shipped

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
SEED = 0
FPS = 25


class Film:
    """A camera that wanders over one large texture: as many frames as wanted, none of them kept.

    Args:
        height, width: pixels of a frame.
        seed: of the texture.
    """

    REACH = 96  # pixels that the camera wanders

    def __init__(self, height: int = 256, width: int = 256, seed: int = SEED) -> None:
        random = torch.Generator().manual_seed(seed)
        self.height, self.width = height, width
        size = (height + self.REACH, width + self.REACH)
        layers = []
        for octave in range(2, 9):
            coarse = torch.randn(1, 3, *(max(side >> (8 - octave), 2) for side in size), generator=random)
            layers.append(F.interpolate(coarse, size, mode="bicubic") / 2**octave)
        texture = torch.stack(layers).sum(0)[0]
        self.texture = (0.5 + texture / (5 * texture.std())).clamp(0, 1)

    def frames(self, first: int, count: int) -> Float[Tensor, "1 3 t h w"]:
        """`count` frames from number `first` on, in [0, 1]."""
        return torch.stack([self._frame(number) for number in range(first, first + count)], 1)[None]

    def _frame(self, number: int) -> Float[Tensor, "3 h w"]:
        top, left = (abs((speed * number) % (2 * self.REACH) - self.REACH) for speed in (1, 3))
        return self.texture[:, top : top + self.height, left : left + self.width]

    def write(self, path: Path, count: int) -> Path:
        """The first `count` frames as a clip, written a few at a time."""
        with media.ClipWriter(path, fps=FPS) as clip:
            for first in range(0, count, FPS):
                clip.write(self.frames(first, min(FPS, count - first)))
        return path


def mosaic() -> tuple[Mosaic, str]:
    """The shipped tokenizer and its fingerprint; before there is one, an untrained one of the same size."""
    if "mosaic" in shipped():
        model = smalti.load("mosaic")
        return model, f"shipped, {model.fingerprint()}"
    torch.manual_seed(SEED)
    model = smalti.create("mosaic").eval()
    model.fit_linear(Film().frames(0, 1), Film().frames(0, 4))
    model.set_context(ContextObjective(model.quantizer, model.config.context).arrays(model.still))
    return model, "untrained"


@dataclass(frozen=True)
class Timing:
    """How long every repetition of one thing took.

    Attributes:
        seconds: by the clock.
        processor: seconds of all cores together, child processes included; other work on the machine
            hardly shows in them.
    """

    seconds: tuple[float, ...]
    processor: tuple[float, ...]

    def rate(self, count: float) -> dict[str, float]:
        """How many of `count` a second by the clock, and a second of one core (median)."""
        of_core = {"of a core": _rounded(count / statistics.median(self.processor))}
        return _spread([count / seconds for seconds in self.seconds]) | of_core

    def against(self, other: Timing) -> dict[str, float]:
        """How many times as fast as another that ran in turn with this one: repetition by repetition."""
        return _spread([b / a for a, b in zip(self.seconds, other.seconds, strict=True)])


def _spread(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "slowest": min(values), "fastest": max(values)}
    return {name: _rounded(value) for name, value in found.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def interleaved(contestants: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, Timing]:
    """Time every contestant in turn, `repeats` times round, after one round that does not count."""
    rounds: dict[Any, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            began, busy = time.perf_counter(), _processor()
            run()
            if turn:
                rounds[name].append((time.perf_counter() - began, _processor() - busy))
    return {name: Timing(*zip(*found, strict=True)) for name, found in rounds.items()}


def _processor() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run_python(*arguments: str) -> str:
    """Standard output of a fresh Python; what it says on standard error comes through."""
    return subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


@dataclass(frozen=True)
class Target:
    """A figure that was promised."""

    what: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the promise holds."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return (
            f"{'met' if self.met else 'MISSED'}: {self.what} {self.value:.3g}, target {sign} {self.limit:g}"
        )


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table whose columns are the keys of the rows; a rate or ratio takes several."""
    flat = [dict(cell for name, value in row.items() for cell in _cells(name, value)) for row in rows]
    drawn = Table(title=title, title_justify="left")
    for number, column in enumerate(flat[0]):
        drawn.add_column(column, justify="right" if number else "left")
    for row in flat:
        drawn.add_row(*row.values())
    return drawn


def _cells(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        yield name, str(value)
        return
    yield name, f"{value['median']:.4g}"
    yield f"{name}: from … to", f"{value['slowest']:.4g} … {value['fastest']:.4g}"
    if "of a core" in value:
        yield f"{name}: of a core", f"{value['of a core']:.4g}"


def report(
    name: str,
    tables: list[Table],
    figures: dict[str, Any],
    targets: list[Target],
    *,
    data: dict[str, Any],
    began: float,
) -> int:
    """Show and save a run. Returns the exit code: 1 where a target is missed.

    Args:
        name: of the benchmark.
        tables: for the screen.
        figures: for the file.
        targets: what was promised.
        data: what was worked on.
        began: `time.monotonic()` at the start.
    """
    command = shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    record = describe(command=command, seed=SEED, seconds=time.monotonic() - began, data=data)
    record["targets"] = [vars(target) | {"met": target.met} for target in targets]
    record["figures"] = figures
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    for drawn in tables:
        console.print(drawn)
    for target in targets:
        console.print(str(target), style="green" if target.met else "red", highlight=False)
    console.print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 0 if all(target.met for target in targets) else 1
