"""What needs torchmetrics, in a file of its own because that library is an extra."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class FrameMean(Metric):
    """The mean of a measure over every frame it has seen.

    Args:
        measure: reference and candidate, each [b 3 t h w], to one value a frame [b t].
    """

    higher_is_better = True
    is_differentiable = True
    full_state_update = False
    total: Tensor
    frames: Tensor

    def __init__(self, measure: Callable[[Tensor, Tensor], Float[Tensor, "b t"]]) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reference: Tensor, candidate: Tensor) -> None:
        """Take one batch of pairs, each [b 3 t h w]."""
        values = self.measure(reference, candidate)
        self.total += values.double().sum()
        self.frames += values.numel()

    def compute(self) -> Tensor:
        """The mean so far; NaN before the first batch."""
        return self.total / self.frames
