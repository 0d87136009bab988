"""The contract of objectives: `objective(batch) -> Loss(total, parts)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.training.parts import Parts
from smalti.training.sources.base import Source

objective = Parts("objective", "smalti.training.objectives")
MEDIA = ("pictures", "clips")  # keys of a batch that hold pixels [b 3 t h w]


def media(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pixels of a batch; what else it holds tells of them.

    Raises:
        ConfigError: neither pictures nor clips.
    """
    found = {name: batch[name] for name in MEDIA if name in batch}
    if not found:
        raise ConfigError(f"a batch of {', '.join(batch) or 'nothing'}: pictures or clips are needed")
    return found


@dataclass(frozen=True)
class Loss:
    """A total to minimise and the parts to log."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A module that turns a batch into a loss.

    It holds whatever is trained: the system, and what training alone needs. Its state is what checkpoints
    keep, and its averaged weights are what the next stage starts from.
    """

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """The loss of a batch."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with the `factor` of the learning rate at which they learn; all at one rate."""
        return [{"params": list(self.parameters()), "factor": 1.0}]

    def start(self, data: Source, fresh: bool = True) -> None:
        """Look at the data before the first step.

        Args:
            data: what training will see.
            fresh: the system's weights are random; otherwise they are to be kept.
        """

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n k 3 h w"] | None:
        """Pictures to look at: n rows of k, such as original and reconstruction; none: there is nothing."""
        return None

    def finish(self, system: nn.Module) -> None:
        """Hand over to the system what it does not hold yet, once the averaged weights are loaded."""
