"""`profile`: every contender at every count of tokens, as long as that does not take too long."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from smalti.errors import ConfigError, SmaltiError
from smalti.evaluation import environment
from smalti.evaluation.audit.cost import peak_memory
from smalti.evaluation.dataset import StrPath
from smalti.evaluation.profiling.clock import clock_of, on_threads, race, seconds_of
from smalti.evaluation.profiling.contender import Call, Contender
from smalti.evaluation.profiling.growth import exponent
from smalti.evaluation.profiling.report import Line, Point, Profile
from smalti.evaluation.profiling.subjects import contenders
from smalti.media.progress import Report as Progress
from smalti.media.progress import track
from smalti.nn.flops import count_flops

TOKENS = (64, 256, 1024, 4096, 16384)
THREADS = (1, 2)
CPU = torch.device("cpu")
BUSY = 1.25  # processes that want a core, for every core


def profile(
    name: str,
    preset: str | None = None,
    *,
    tokens: Sequence[int] = TOKENS,
    threads: Sequence[int] = THREADS,
    repeats: int = 5,
    cap: float = 10.0,
    width: int | None = None,
    heads: int | None = None,
    out: StrPath | None = None,
    command: str = "",
    progress: bool | Progress | None = None,
) -> Profile:
    """Measure a backbone beside a plain transformer of its size, or all mixers beside fused attention.

    Args:
        name: of a backbone, or "mixers".
        preset: of the backbone.
        tokens: patches of 16 × 16 pixels, all frames together, or tokens of the mixers.
        threads: numbers of threads to take times on.
        repeats: runs of every time at most.
        cap: seconds; a count on which one run takes longer is not measured, nor larger ones, and runs are
            repeated until they have taken as long together.
        width: channels of the mixers, 384 when not given.
        heads: of the mixers, 6 when not given.
        out: folder for `profile.json` and `curves.svg`.
        command: what the user typed, for the record.
        progress: see `smalti.media.progress.track`.

    Raises:
        ConfigError: an unknown name or preset, numbers below 1, or no count that could be measured.
        UnsupportedError: a backbone that reads something other than pixels.
    """
    counts, ways = sorted(set(tokens)), sorted(set(threads))
    for what, numbers in (("tokens", counts), ("threads", ways), ("repeats", [repeats])):
        if not numbers or min(numbers) < 1:
            raise ConfigError(f"{what} must be 1 or more, not {', '.join(map(str, numbers)) or 'none'}")
    if not cap > 0:
        raise ConfigError(f"the seconds of a point must be more than 0, not {cap}")
    began = time.perf_counter()
    bench = Bench(contenders(name, preset, width, heads), ways, repeats, cap)
    with torch.no_grad():
        for count in track(counts, f"profiling {name}", len(counts), progress):
            bench.measure(count)
    lines = bench.lines()
    if any(not line.points for line in (lines[0], *lines[1:][:1])):
        raise ConfigError(f"nothing could be measured: {'; '.join(bench.notes)}")
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1) and ways[-1] > 1:
        bench.notes.append(
            f"the machine was busy with other work (a load of {load:.1f}): times on {ways[-1]} threads, "
            "which wait for each other, say little"
        )
    result = Profile(
        subject={"name": name, "preset": preset, "width": width, "heads": heads},
        lines=lines,
        run=environment.describe(
            command=command,
            seed=0,
            seconds=time.perf_counter() - began,
            data={"tokens": counts, "threads": ways, "repeats": repeats, "cap_seconds": cap, "load": load},
        ),
        notes=tuple(bench.notes),
    )
    if out is not None:
        result.save(Path(out))
    return result


class Bench:
    """Points of every contender, from few tokens to many.

    Args:
        field: who takes part.
        threads: in order.
        repeats: runs of every time at most.
        cap: seconds of a run.
    """

    def __init__(self, field: Sequence[Contender], threads: Sequence[int], repeats: int, cap: float) -> None:
        self.field, self.threads, self.repeats, self.cap = field, threads, repeats, cap
        self.points: dict[str, list[Point]] = {one.name: [] for one in field}
        self.notes: list[str] = []
        self._out: set[str] = set()

    def measure(self, tokens: int) -> None:
        """Add a point of everyone who can take so many tokens in time."""
        ready: dict[str, tuple[Call, int]] = {}
        for one in self.field:
            if one.name not in self._out:
                tried = self._try(one, tokens)
                if tried is not None:
                    ready[one.name] = tried
        calls = {name: call for name, (call, _) in ready.items()}
        times = [race(calls, threads, self.repeats, self.cap) for threads in self.threads]
        for one in self.field:
            if one.name in ready:
                call, flops = ready[one.name]
                joules = None if one.energy is None else one.energy(tokens)
                taken = tuple(found[one.name] for found in times)
                self.points[one.name].append(Point(tokens, flops, peak_memory(call, CPU), taken, joules))

    def _try(self, one: Contender, tokens: int) -> tuple[Call, int] | None:
        """A call that has run once, and its FLOPs; None, with a note, if it cannot or takes too long."""
        expected = self._expected(one.name, tokens)
        if expected > self.cap:
            return self._leave(one, tokens, f"about {expected:.0f} s expected")
        flops = 0

        def count() -> None:
            nonlocal flops
            flops = count_flops(call)

        try:
            call = one.prepare(tokens)
            with on_threads(self.threads[0]):
                seconds = seconds_of(count, clock_of(self.threads[0]))
        except SmaltiError as error:
            self.notes.append(f"{one.name} on {tokens:,} tokens: {error}")
            return None
        if seconds > self.cap:
            return self._leave(one, tokens, f"it took {seconds:.0f} s")
        return call, flops

    def _expected(self, name: str, tokens: int) -> float:
        """Seconds as the last two points foretell them, at least in proportion to the tokens."""
        last = {point.tokens: point.times[0].seconds for point in self.points[name][-2:]}
        if not last:
            return 0.0
        slope = max(exponent(last), 1.0) if len(last) == 2 else 1.0
        return last[max(last)] * (tokens / max(last)) ** slope

    def _leave(self, one: Contender, tokens: int, why: str) -> None:
        self._out.add(one.name)
        self.notes.append(
            f"{one.name} is not measured on {tokens:,} tokens and more: {why}, over {self.cap:g} s a run"
        )

    def lines(self) -> tuple[Line, ...]:
        """What was measured; contenders without any point are left out, but for the first two."""
        found = [Line(one.name, one.parameters, one.note, tuple(self.points[one.name])) for one in self.field]
        return tuple(line for place, line in enumerate(found) if line.points or place < 2)
