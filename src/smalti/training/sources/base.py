"""The contract of data: `batch(step, seed)`, the same batch whenever it is asked for again."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from smalti.training.parts import Parts

source = Parts("data source", "smalti.training.sources")


@runtime_checkable
class Source(Protocol):
    """Batches without end; random in seed and step alone, so that a resumed run sees what it would have."""

    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        """Named tensors, on the CPU."""
        ...
