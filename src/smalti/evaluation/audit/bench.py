"""One reducer at one budget on one model: everything that is measured, as a `Row`.

```
reduce(keep) ──► Row, counts ──► random, uniform at these counts ──► Rows
a Row:   pictures ─► answers, reductions ─► fidelity, choice, steadiness      two copies by turns ─► speeds
```
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.evaluation.audit import cost, fidelity, passes
from smalti.evaluation.audit.candidate import CONTROLS, Candidate, control
from smalti.evaluation.audit.material import Material
from smalti.evaluation.audit.report import FULL, Row
from smalti.evaluation.audit.subject import Subject
from smalti.evaluation.examples import Example
from smalti.evaluation.overlay import overlay
from smalti.nn.flops import count_flops
from smalti.reducers.hosts import find, reduce
from smalti.reducers.hosts.handle import Handle
from smalti.reducers.reduction import Reduction

SWEEP = (49, 100, 196, 400, 784)  # patches of the break-even sweep


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        batches: pictures at once, for times.
        repeats, warmup: runs of every time that count, and before them that do not.
        seeds: of methods that draw, two or more.
        break_even: also sweep the number of tokens.
    """

    batches: tuple[int, ...] = (1, 8)
    repeats: int = 10
    warmup: int = 2
    seeds: int = 3
    break_even: bool = False


class Bench:
    """A model, pictures, and the rows measured so far, the full model's first.

    Attributes:
        rows: what was measured.
        notes: what could not be, and why.
        drawings: overlays of the first picture.
        failures: errors of what could not be measured.
    """

    def __init__(self, subject: Subject, pictures: Material, effort: Effort) -> None:
        self.subject, self.pictures, self.effort = subject, pictures, effort
        self.notes: list[str] = []
        self.drawings: list[Example] = []
        self.failures: list[SmaltiError] = []
        self._twin = copy.deepcopy(subject.model)  # stays whole, to run by turns with the reduced one
        self._full = passes.run_pass(subject, pictures)
        self._probe = self._taught()
        self.rows = [self._full_row()]

    def add(self, candidate: Candidate, keep: float) -> None:
        """Measure a reducer at a budget, and the controls at its counts; note it if that cannot be done."""
        try:
            row = self._row(candidate, keep, {"keep": keep})
        except SmaltiError as error:
            self.failures.append(error)
            self.notes.append(f"{candidate.name} at keep {keep:g} is left out: {error}")
            return
        self.rows.append(row)
        if candidate.trained:
            self.notes.append(f"{candidate.name} has weights of its own, which are random here")
        if candidate.name in CONTROLS:
            return
        place = candidate.make(0).place
        for name in CONTROLS:
            beside = control(name, place)
            self.rows.append(self._row(beside, keep, {"counts": row.counts}, candidate.name))

    def describe(self, name: str) -> dict[str, Any]:
        """The model, for the record."""
        return {
            "name": name,
            "class": type(self.subject.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.subject.model.parameters()),
            "blocks": len(self.subject.host.blocks),
            "tokens": self.rows[0].counts[0],
            "size": self.subject.size,
        }

    def _input(self, batch: int) -> Tensor:
        pixels = next(self.pictures.batches(batch))
        whole = pixels.repeat(-(-batch // len(pixels)), 1, 1, 1)[:batch]
        return self.subject.input(whole)

    def _taught(self) -> fidelity.Probe | None:
        labels = self.pictures.labels
        if labels is None or len(self.pictures.classes) < 2:
            return None
        return fidelity.Probe(self._full.pooled.cpu(), labels)

    def _score(self, done: passes.Pass) -> dict[str, float]:
        """How well the pictures' classes are told from the features."""
        labels = self.pictures.labels
        if self._probe is None or labels is None:
            return {}
        pooled = done.pooled.cpu()
        return {
            "neighbours": fidelity.neighbour_accuracy(pooled, labels),
            "probe": self._probe.accuracy(pooled),
        }

    @torch.no_grad()
    def _full_row(self) -> Row:
        model, done, one = self.subject.model, self._full, self._input(1)
        count = int(done.real[0])
        effort = self.effort
        speeds = [
            cost.full_speed(model, self._input(n), effort.repeats, effort.warmup) for n in effort.batches
        ]
        return Row(
            reducer=FULL,
            keep=1.0,
            counts=(count,) * len(self.subject.host.blocks),
            tokens=float(count),
            flops=count_flops(model, one),
            bound=1.0,
            speeds=tuple(speeds),
            memory=cost.peak_memory(lambda: model(one), self.subject.device),
            likeness=done.likeness,
            **self._score(done),
        )

    @torch.no_grad()
    def _row(self, candidate: Candidate, keep: float, schedule: dict[str, Any], beside: str = "") -> Row:
        subject, effort, one = self.subject, self.effort, self._input(1)
        reducer = candidate.make(0)
        with reduce(subject.model, reducer, **schedule) as handle:
            done = passes.run_pass(subject, self.pictures, handle)
            flops = count_flops(subject.model, one)
            bound = self.rows[0].flops / flops
            found: dict[str, Any] = {
                **passes.likeness_to(self._full, done),
                **passes.choice(done, subject.grid),
                **passes.steadiness(subject, self.pictures, handle),
                **self._score(done),
            }
            speeds = [
                cost.speed(self._twin, handle, self._input(n), bound, effort.repeats, effort.warmup)
                for n in effort.batches
            ]
            memory = cost.peak_memory(lambda: subject.model(one), subject.device)
            subject.model(one)
            counts = handle.counts
            if effort.break_even and not beside:
                found["break_even"] = self._break_even(handle)
        if reducer.ragged:
            found["adaptivity"] = passes.adaptivity(self.pictures, done)
        if candidate.seeded and effort.seeds > 1:
            found |= passes.seed_spread(
                subject,
                self.pictures,
                self._full,
                effort.seeds,
                lambda seed: reduce(subject.model, candidate.make(seed), **schedule),
            )
        if not beside and done.first is not None:
            self._draw(done.first, f"{candidate.name} at {keep:g}", f"{done.real.mean():.0f} tokens")
        return Row(
            reducer=candidate.name,
            keep=keep,
            counts=counts,
            tokens=done.real.mean().item(),
            flops=flops,
            bound=bound,
            speeds=tuple(speeds),
            memory=memory,
            beside=beside,
            **found,
        )

    def _break_even(self, handle: Handle) -> float:
        """The blocks alone, on drawn tokens of growing number."""
        host, twin = self.subject.host, find(self._twin)
        times: tuple[list[float], list[float]] = ([], [])
        for count in SWEEP:
            generator = torch.Generator().manual_seed(count)
            x = torch.randn(1, count + host.prefix, host.sizes.dim, generator=generator).to(
                self.subject.device
            )
            runs = cost.race(
                lambda x=x: _through(twin.blocks, x),
                lambda x=x: _through(host.blocks, x),
                x.device,
                self.effort.repeats,
                self.effort.warmup,
            )
            for kept, run in zip(times, runs, strict=True):
                kept.append(cost.spread(run)[1])
        return cost.break_even([count + host.prefix for count in SWEEP], *times)

    def _draw(self, reduction: Reduction, title: str, caption: str) -> None:
        """The first picture with its tokens, after the picture itself."""
        picture = self.pictures.picture(0)
        if not self.drawings:
            count = self.rows[0].counts[0]
            self.drawings.append(Example("The picture", f"{count} tokens", _png(picture)))
        self.drawings.append(Example(title, caption, _png(overlay(picture, reduction, self.subject.grid))))


def _through(blocks: Iterable[Any], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
        x = x[0] if isinstance(x, tuple) else x
    return x


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
