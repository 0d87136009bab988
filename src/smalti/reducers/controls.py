"""The controls that every method is measured against: random, uniform, pooling."""

from __future__ import annotations

from dataclasses import dataclass

from smalti.reducers import criteria
from smalti.reducers.composed import Composed, ComposedConfig
from smalti.registry import system


@dataclass(frozen=True)
class RandomConfig:
    """Attributes:
    seed: of the draw.
    strategy: name of a strategy.
    """

    seed: int = 0
    strategy: str = "prune"


@dataclass(frozen=True)
class ControlConfig:
    """Nothing to choose."""


@system(
    "random", room="reducers", presets={"default": RandomConfig()}, tags=("training-free", "control", "prune")
)
class Random(Composed):
    """Control: keeps tokens drawn by a seed, the same for every sample."""

    def __init__(self, config: RandomConfig | None = None) -> None:
        config = config or RandomConfig()
        super().__init__(ComposedConfig(criteria.Random(config.seed), config.strategy))


@system(
    "uniform",
    room="reducers",
    presets={"default": ControlConfig()},
    tags=("training-free", "control", "prune"),
)
class Uniform(Composed):
    """Control: keeps evenly spaced tokens."""

    def __init__(self, config: ControlConfig | None = None) -> None:
        super().__init__(ComposedConfig("uniform", "prune"))


@system(
    "pool", room="reducers", presets={"default": ControlConfig()}, tags=("training-free", "control", "merge")
)
class Pool(Composed):
    """Control: means over blocks of the grid, or over runs of tokens where there is none."""

    proportional = True

    def __init__(self, config: ControlConfig | None = None) -> None:
        super().__init__(ComposedConfig("uniform", "pool"))
