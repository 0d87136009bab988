"""Checkpoints of a training: whole or not at all, verified when they are read.

```
objective, optimizer, averaged weights, step ── save ──► checkpoint.pt ── restore ──► the same
```
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.errors import ConfigError, IntegrityError

CHECKPOINT = "checkpoint.pt"


class Average:
    """Exponentially averaged weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights, faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        new = [p.detach() for _, p in module.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - decay)


def save(folder: Path, state: dict[str, Any], objective: nn.Module, optimizer: Any, average: Average) -> None:
    """Write the checkpoint whole under another name, then rename it."""
    state = state | {
        "objective": objective.state_dict(),
        "average": average.weights,
        "optimizer": getattr(optimizer, "optimizer", optimizer).state_dict(),
    }
    temporary = folder / f"{CHECKPOINT}.{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / CHECKPOINT)


def restore(
    folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> tuple[int, float, dict[str, tuple[float, int]]]:
    """Step, seconds and sums since the last log of the folder's checkpoint, loaded; zeros if there is none.

    Raises:
        ConfigError: the checkpoint belongs to another model.
        IntegrityError: the checkpoint cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return 0, 0.0, {}
    try:
        with zipfile.ZipFile(path) as records:  # torch.load checks no sums
            changed = records.testzip()
        if changed is not None:
            raise zipfile.BadZipFile(f"{changed} was changed since it was written")
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path} cannot be read ({error}): remove it to start again") from error
    try:
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, weight in average.weights.items():
                weight.copy_(state["average"][name])
        return state["step"], state["seconds"], state.get("sums", {})
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} belongs to another model: {error}") from error
