"""Any criterion with any strategy."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from smalti.reducers.base import Context, Reducer
from smalti.reducers.criteria import Criterion, criterion_of
from smalti.reducers.reduction import Gather, Reduction, identity, protect
from smalti.reducers.strategies import strategy_of
from smalti.registry import system


@dataclass(frozen=True)
class ComposedConfig:
    """Attributes:
    criterion: name of a criterion, or one with options: `Attention(queries="all")`.
    strategy: name of a strategy.
    """

    criterion: str | Criterion = "attention"
    strategy: str = "prune"


@system(
    "composed",
    room="reducers",
    presets={"default": ComposedConfig()},
    tags=("training-free", "composed"),
)
class Composed(Reducer):
    """Any criterion with any strategy: `smalti.create("composed", criterion="k-means", strategy="merge")`.

    ```
    tokens ─┬─ protected ────────────────────────────────────┐
            └─ others ──► criterion ──► Judgement ──► strategy ─► Reduction
    ```
    Raises:
        ConfigError: a criterion or strategy that does not exist.
        UnsupportedError: the context lacks what the criterion needs.
    """

    def __init__(self, config: ComposedConfig | None = None) -> None:
        super().__init__()
        self.config = config or ComposedConfig()
        self.criterion = criterion_of(self.config.criterion)
        self.strategy = strategy_of(self.config.strategy)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        body = context.behind(front)
        others = tokens[:, front:]
        left = (others.shape[1] + 1) // 2 if count is None else count - front
        if left == 0:
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        judgement = self.criterion.judge(others, body, left)
        return protect(self.strategy(others, judgement, left, body), front, context.mass)
