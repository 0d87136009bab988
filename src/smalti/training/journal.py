"""What a training leaves to read: a line of JSON now and then, curves, sheets of pictures.

```
values of every step ──► means ──► log.jsonl, tensorboard/        objective.samples ──► samples/000500.png
```
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from smalti.errors import missing_extra

LOG, CURVES, SAMPLES = "log.jsonl", "tensorboard", "samples"


class Journal:
    """Means of values over the steps since the last line.

    Args:
        folder: of the run.
        step: the run goes on from it; later lines are dropped, for those steps are taken again.
        sums: sum and count of every value since the last line.
        curves: also write for TensorBoard.

    Raises:
        UnsupportedError: TensorBoard is wanted and not installed.
    """

    def __init__(
        self, folder: Path, step: int, sums: dict[str, tuple[float, int]], curves: bool = False
    ) -> None:
        self.folder, self.sums = folder, sums
        self._curves: Any = _writer(folder / CURVES, step) if curves else None
        log = folder / LOG
        if step == 0:
            log.unlink(missing_ok=True)
        elif log.exists():
            lines = log.read_text().splitlines()
            taken = [line for line in lines if _step_of(line) <= step]
            if taken != lines:
                log.write_text("".join(f"{line}\n" for line in taken))

    def add(self, values: dict[str, Tensor]) -> None:
        """Count values in."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + float(value.detach()), count + 1)

    def write(self, step: int, seconds: float, rate: float) -> dict[str, float]:
        """One line, and the means that it holds."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        line = {"step": step, "seconds": round(seconds, 1), "rate": rate}
        with (self.folder / LOG).open("a") as log:
            log.write(json.dumps({**line, **{k: round(v, 5) for k, v in means.items()}}) + "\n")
        if self._curves is not None:
            for name, value in {"rate": rate, **means}.items():
                self._curves.add_scalar(name, value, step)
            self._curves.flush()
        return means

    def show(self, step: int, rows: Float[Tensor, "n k 3 h w"]) -> None:
        """One sheet of pictures: n rows of k."""
        sheet = rearrange(rows, "n k c h w -> (n h) (k w) c").float().clamp(0, 1) * 255
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        Image.fromarray(sheet.round().to("cpu", torch.uint8).numpy()).save(
            self.folder / SAMPLES / f"{step:06}.png"
        )

    def close(self) -> None:
        """End the curves' file."""
        if self._curves is not None:
            self._curves.close()


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_extra("tensorboard", "train") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a kill cut the line short
        return math.inf
