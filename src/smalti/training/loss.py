"""The contract of objectives: `objective(batch) -> Loss(total, parts)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A total to minimise and the parts to log."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


class Objective(Protocol):
    """A module that turns a batch into a loss."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with the `factor` of the learning rate at which they learn."""
        ...

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """The loss of a batch."""
        ...
