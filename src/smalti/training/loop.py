"""The training loop: on Accelerate, resumable to the exact step.

```
batch(step) ──► objective ──► loss ──► AdamW ──► averaged weights
                                └──► Journal            now and then: checkpoint.pt, whole or not at all
```
Everything random in a step is seeded by the step, so a run that was killed and resumed takes the same steps
as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from smalti.errors import ConfigError, SmaltiError, missing_extra, nearest
from smalti.training.checkpoint import Average, restore, save
from smalti.training.interruption import Interruption
from smalti.training.journal import Journal
from smalti.training.objectives.base import Objective

PRECISIONS = ("no", "bf16")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class LoopConfig:
    """Attributes:
    steps: steps of the whole training.
    learning_rate: of AdamW, reached after `warmup` steps.
    schedule: "constant" keeps the rate until the last `cooldown` steps, which fall to zero in a line;
        "cosine" lets it fall from the warm-up's end to zero along half a cosine.
    weight_decay: of AdamW.
    average: decay of the averaged weights, a step.
    clip: largest norm of the gradient.
    accumulate: batches a step, whose gradients are averaged.
    precision: of the networks' products: "no" keeps float32, "bf16" is faster where there is hardware.
    threads: of PyTorch; 0 leaves its choice.
    log_every, save_every: steps.
    samples_every: steps from one sheet of pictures to the next; 0: none.
    tensorboard: log there too.
    seed: of everything.
    """

    steps: int
    learning_rate: float = 5e-4
    schedule: str = "constant"
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.0
    average: float = 0.999
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "no"
    threads: int = 0
    log_every: int = 50
    save_every: int = 500
    samples_every: int = 0
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("schedule", SCHEDULES)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"no {name} {value!r}: {nearest(value, known)}")
        for name in ("steps", "accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: 1 is the least")
        if self.schedule == "cosine" and self.cooldown:
            raise ConfigError("a cosine schedule has no cooldown: it falls to zero by itself")

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        if self.schedule == "cosine":
            passed = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            return self.learning_rate * warm * (1 + math.cos(math.pi * passed)) / 2
        cool = min(1.0, (self.steps - step) / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * warm * cool


def fit(
    objective: Objective,
    batch: Callable[[int, int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    report: Callable[[int, dict[str, float]], None] | None = None,
    until: float = math.inf,
) -> dict[str, Tensor]:
    """Train from the folder's checkpoint, or from the start, and give the averaged weights.

    SIGINT and SIGTERM end the training after the step in hand, with a checkpoint.

    Args:
        objective: `objective(batch) -> Loss`.
        batch: (number, seed) → batch; every step takes the next `accumulate` numbers.
        config: of the loop.
        folder: holds `checkpoint.pt`, `log.jsonl`, and where wanted `tensorboard/` and `samples/`.
        report: called with the step and the means of the parts at every log.
        until: seconds after which to stop at a checkpoint, to be resumed later.

    Raises:
        UnsupportedError: Accelerate, or TensorBoard where it is wanted, is not installed.
        ConfigError: the checkpoint belongs to another model.
        IntegrityError: the checkpoint cannot be read.
        SmaltiError: the loss is not finite.
        KeyboardInterrupt: a signal ended the training; the checkpoint is written.
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
    journal = Journal(folder, step, sums, config.tensorboard)
    with closing(journal), Interruption() as interruption:
        while step < config.steps and not interruption.asked:
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step) * group["factor"]
            for number in range(step * config.accumulate, (step + 1) * config.accumulate):
                given = {k: part.to(accelerator.device) for k, part in batch(number, config.seed).items()}
                with torch.autocast(accelerator.device.type, torch.bfloat16, config.precision == "bf16"):
                    loss = model(given)
                if not torch.isfinite(loss.total):
                    raise SmaltiError(
                        f"the loss is {loss.total.item()} at step {step}: lower the learning rate"
                    )
                accelerator.backward(loss.total / config.accumulate)
                journal.add({"loss": loss.total, **loss.parts})
            journal.add({"gradient": accelerator.clip_grad_norm_(model.parameters(), config.clip)})
            optimizer.step()
            optimizer.zero_grad()
            average.update(objective, step)
            step += 1
            last = step == config.steps
            stop = interruption.asked or time.monotonic() - began > until
            if accelerator.is_main_process:
                spent = seconds + time.monotonic() - began
                if step % config.log_every == 0 or last:
                    means = journal.write(step, spent, config.rate(step - 1))
                    if report is not None:
                        report(step, means)
                if config.samples_every and (step % config.samples_every == 0 or last):
                    show(objective, given, step, journal)
                if step % config.save_every == 0 or last or stop:
                    state = {"step": step, "seconds": spent, "sums": journal.sums, "config": asdict(config)}
                    save(folder, state, objective, optimizer, average)
            if stop:
                break
    if interruption.asked:
        raise KeyboardInterrupt
    return average.weights


@torch.no_grad()
def show(objective: Objective, batch: dict[str, Tensor], step: int, journal: Journal) -> None:
    """Draw the objective's samples of a batch, where it has any."""
    training = objective.training
    rows = objective.eval().samples(batch)
    objective.train(training)
    if rows is not None:
        journal.show(step, rows)
