"""Golden cases: what the authors' own modules gave at a tiny size, found on disk and never named by hand.

```
SMALTI_GOLDEN (default ../shared/golden)/<slug>/<case>.safetensors   weights.*, input.*, output.*
                                               /<case>.json          repo, module, config, tolerance
tests/golden/data/<slug>/…                     cases that always run
```

In `tests/golden/test_<slug>.py`:

```
@golden("tome")
def test_matches_the_official_module(case: Case) -> None:
    model = load(case.weights, **case.config)
    case.check("tokens", model(case.inputs["x"]))
```
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SMALTI_GOLDEN") or HERE.parents[1].parent / "shared" / "golden")
KEPT = HERE / "data"


@dataclass(frozen=True)
class Case:
    """One recorded run of an official module."""

    path: Path

    def __str__(self) -> str:
        return self.path.stem

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads(self.path.with_suffix(".json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.about.get("config", {})

    @property
    def tolerance(self) -> float:
        """The first number of what the case says; some add words to it."""
        found = re.match(r"[\d.]+(e-?\d+)?", str(self.about["tolerance"]))
        if found is None:
            raise ValueError(f"{self.path}: no number in tolerance {self.about['tolerance']!r}")
        return float(found[0])

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        return load_file(self.path)

    @property
    def weights(self) -> dict[str, Tensor]:
        return self._under("weights.")

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self._under("input.")

    @property
    def outputs(self) -> dict[str, Tensor]:
        return self._under("output.")

    def check(self, name: str, ours: Tensor, tolerance: float | None = None) -> None:
        """Integers must be equal; floats as near as the case promises."""
        expected = self.outputs[name]
        if not expected.is_floating_point():
            assert torch.equal(ours.to(expected.dtype), expected), f"{self}: {name} differs"
            return
        within = self.tolerance if tolerance is None else tolerance
        torch.testing.assert_close(ours.to(expected.dtype), expected, atol=within, rtol=within)

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}


def find(slug: str, pattern: str = "*") -> list[Case]:
    """Every case of a slug whose name fits the pattern; the shared folder goes before the kept copies."""
    found: dict[str, Case] = {}
    for root in (KEPT, SHARED):
        for path in sorted((root / slug).glob(f"{pattern}.safetensors")):
            found[path.stem] = Case(path)
    return [found[name] for name in sorted(found)]


def golden(slug: str, pattern: str = "*") -> Callable:
    """Run a test on every case found, or skip it saying where cases were looked for."""
    cases = [pytest.param(case, id=str(case)) for case in find(slug, pattern)]
    if not cases:
        reason = f"no golden cases of {slug}: set SMALTI_GOLDEN (looked in {SHARED / slug})"
        cases = [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    return pytest.mark.parametrize("case", cases)
