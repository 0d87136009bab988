"""`audit`: every reducer at every budget, with its controls, beside the full model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from smalti.errors import ConfigError, MediaError
from smalti.evaluation import environment
from smalti.evaluation.audit.bench import Bench, Effort
from smalti.evaluation.audit.candidate import CONTROLS, Candidate, candidate
from smalti.evaluation.audit.material import Material, material
from smalti.evaluation.audit.report import Audit
from smalti.evaluation.audit.subject import Subject
from smalti.evaluation.dataset import StrPath
from smalti.media.progress import Report as Progress
from smalti.media.progress import track
from smalti.reducers.base import Reducer

LEAST_BUDGETS = 4
BUDGETS = (0.9, 0.7, 0.5, 0.3)


def audit(
    model: nn.Module,
    reducers: Sequence[str | Reducer],
    data: Material | StrPath | Sequence[StrPath],
    *,
    keep: Sequence[float] = BUDGETS,
    size: int | None = None,
    limit: int | None = None,
    effort: Effort | None = None,
    out: StrPath | None = None,
    name: str | None = None,
    command: str = "",
    progress: bool | Progress | None = None,
) -> Audit:
    """Measure reducers on a pretrained model.

    Args:
        model: one that `smalti.reduce` knows; it comes back as it was.
        reducers: names, `name:preset`, or reducers. Random and uniform stand beside each, at its counts.
        data: pictures: files, folders, a folder of classes, a name of `material.SETS`, or a `Material`.
        keep: shares of the tokens to leave, four or more.
        size: pixels a side; the model's own when not given.
        limit: pictures to take at most, evenly from all classes.
        effort: how much is measured.
        out: folder for `audit.json`, `curves.svg` and `index.html`.
        name: as the page prints the model; its class when not given.
        command: what the user typed, for the record.
        progress: see `smalti.media.progress.track`.

    Raises:
        ConfigError: fewer than four budgets, one outside (0, 1], an unknown reducer, an unfit size.
        UnsupportedError: a model that no host knows, or no reducer that fits it.
        MediaError: fewer than two pictures, or one that cannot be read.
    """
    began = time.perf_counter()
    budgets, candidates = checked_budgets(keep), _candidates(reducers)
    subject = Subject(model, size)
    chosen = data if isinstance(data, Material) else material(data, subject.size, limit)
    if len(chosen) < 2:
        raise MediaError("an audit compares pictures with each other: give two or more")
    bench = Bench(subject, chosen, effort or Effort())
    plan = [(one, share) for one in candidates for share in budgets]
    for one, share in track(plan, "auditing", len(plan), progress):
        bench.add(one, share)
    if len(bench.rows) == 1:
        raise bench.failures[0]
    result = Audit(
        model=bench.describe(name or type(model).__name__),
        rows=tuple(bench.rows),
        run=environment.describe(
            command=command,
            seed=0,
            seconds=time.perf_counter() - began,
            data={
                "name": chosen.name,
                "count": len(chosen),
                "classes": list(chosen.classes),
                "sha256": chosen.digest,
            },
        ),
        notes=(_memory_note(subject), *dict.fromkeys(bench.notes)),
        pictures=tuple(bench.drawings),
    )
    if out is not None:
        result.save(Path(out))
    return result


def checked_budgets(keep: Sequence[float]) -> list[float]:
    """The budgets, largest first.

    Raises:
        ConfigError: fewer than four, or one outside (0, 1].
    """
    budgets = sorted(set(keep), reverse=True)
    if not all(0 < share <= 1 for share in budgets):
        raise ConfigError(f"keep must lie in (0, 1], not {', '.join(map(str, budgets))}")
    if len(budgets) < LEAST_BUDGETS:
        raise ConfigError(f"an audit draws curves over {LEAST_BUDGETS} budgets or more, not {len(budgets)}")
    return budgets


def _candidates(reducers: Sequence[str | Reducer]) -> list[Candidate]:
    """Those to audit; a control that is named beside others stands beside them anyway."""
    found = [candidate(one) for one in reducers]
    if not found:
        raise ConfigError("name one reducer or more")
    return [one for one in found if one.name not in CONTROLS] or found


def _memory_note(subject: Subject) -> str:
    how = "CUDA's allocator" if subject.device.type == "cuda" else "the bytes of tensors alive at once"
    return f"Memory is that of activations for one picture, by {how}; weights are not in it."
