"""The training loop: on Accelerate, resumable to the exact step.

```
batch(step) ──► objective ──► loss ──► AdamW ──► averaged weights
                                └──► log.jsonl          now and then: checkpoint.pt, whole or not at all
```
Everything random in a step is seeded by the step, so a run that was killed and resumed takes the same steps
as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import ConfigError, IntegrityError, SmaltiError, missing_extra, nearest

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True)
class LoopConfig:
    """Attributes:
    steps: steps of the whole training.
    learning_rate: of AdamW, after `warmup` steps and until the last `cooldown` steps, which fall to zero.
    weight_decay: of AdamW.
    average: decay of the averaged weights, a step.
    clip: largest norm of the gradient.
    precision: of the networks' products: "no" keeps float32, "bf16" is faster where there is hardware.
    threads: of PyTorch; 0 leaves its choice.
    log_every, save_every: steps.
    seed: of everything.
    """

    steps: int
    learning_rate: float = 5e-4
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.0
    average: float = 0.999
    clip: float = 1.0
    precision: str = "no"
    threads: int = 0
    log_every: int = 50
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"no precision {self.precision!r}: {nearest(self.precision, PRECISIONS)}")

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        cool = min(1.0, (self.steps - step) / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * warm * cool


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


def fit(
    objective: nn.Module,
    batch: Callable[[int, int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    report: Callable[[int, dict[str, float]], None] | None = None,
    until: float = math.inf,
) -> dict[str, Tensor]:
    """Train from the folder's checkpoint, or from the start, and give the averaged weights.

    Args:
        objective: `objective(batch) -> Loss`.
        batch: (step, seed) → batch.
        config: of the loop.
        folder: holds `checkpoint.pt` and `log.jsonl`.
        report: called with the step and the means of the parts at every log.
        until: seconds after which to stop at a checkpoint, to be resumed later.

    Raises:
        UnsupportedError: Accelerate is not installed.
        ConfigError: the checkpoint belongs to another model.
        IntegrityError: the checkpoint cannot be read.
        SmaltiError: the loss is not finite.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise missing_extra("accelerate", "train") from error
    if config.threads:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    objective.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        objective.parameter_groups(),
        config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
    )
    average = Average(objective, config.average)
    step, seconds, sums = restore(folder, objective, optimizer, average)
    model, optimizer = accelerator.prepare(objective, optimizer)
    began = time.monotonic()
    while step < config.steps:
        torch.manual_seed(config.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step) * group["factor"]
        moved = {name: part.to(accelerator.device) for name, part in batch(step, config.seed).items()}
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = model(moved)
        if not torch.isfinite(loss.total):
            raise SmaltiError(f"the loss is {loss.total.item()} at step {step}: lower the learning rate")
        accelerator.backward(loss.total)
        norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(objective, step)
        step += 1
        for name, value in {"loss": loss.total, "gradient": norm, **loss.parts}.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + float(value.detach()), count + 1)
        spent = seconds + time.monotonic() - began
        if step % config.log_every == 0 or step == config.steps:
            means = {name: total / count for name, (total, count) in sums.items()}
            sums = {}
            if accelerator.is_main_process:
                line = {"step": step, "seconds": round(spent, 1), "rate": config.rate(step - 1)}
                with (folder / LOG).open("a") as log:
                    log.write(json.dumps({**line, **{k: round(v, 5) for k, v in means.items()}}) + "\n")
                if report is not None:
                    report(step, means)
        stop = time.monotonic() - began > until
        if accelerator.is_main_process and (step % config.save_every == 0 or step == config.steps or stop):
            state = {"step": step, "seconds": spent, "sums": sums, "config": asdict(config)}
            save(folder, state, objective, optimizer, average)
        if stop:
            break
    return average.weights


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

    Lines of the log that are later than the checkpoint are dropped: those steps are taken again.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        (folder / LOG).unlink(missing_ok=True)
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
        for name, weight in average.weights.items():
            weight.copy_(state["average"][name])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} belongs to another model: {error}") from error
    log = folder / LOG
    if log.exists():
        lines = log.read_text().splitlines()
        taken = [line for line in lines if _step_of(line) <= state["step"]]
        if taken != lines:
            log.write_text("".join(f"{line}\n" for line in taken))
    return state["step"], state["seconds"], state.get("sums", {})


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a kill cut the line short
        return math.inf
