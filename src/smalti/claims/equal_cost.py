"""Reducers at the same cost, what they spend on choosing included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.reducers.hosts import reduce
from smalti.reducers.hosts.handle import Handle


def counted_share(model: nn.Module, example: Float[Tensor, "1 3 h w"], whole: int) -> float:
    """Counted multiply-adds of a picture, as a share of the unreduced model's."""
    return count_flops(model, example) / whole


def at_cost(
    model: nn.Module,
    reducer: str,
    share: float,
    example: Float[Tensor, "1 3 h w"],
    layers: Sequence[int] | None = None,
    **options: Any,
) -> Handle:
    """The model reduced just so far that it costs that share of its counted multiply-adds, choosing included.

    Args:
        model: an unreduced one.
        reducer: a system's name.
        share: of the whole model's cost.
        example: a picture to count with.
        layers: blocks at which tokens leave; the method's own choice when not given.
        options: of the reducer's configuration.

    Raises:
        ConfigError: the share cannot be reached.
    """
    whole = count_flops(model, example)
    low, high, best = 0.0, 1.0, None
    for _ in range(8):
        middle = (low + high) / 2
        try:
            with reduce(model, reducer, flops=middle, layers=layers, **options):
                spent = counted_share(model, example, whole)
        except ConfigError:  # fewer than its least
            low = middle
            continue
        if spent <= share:
            best, low = middle, middle
        else:
            high = middle
    if best is None:
        raise ConfigError(f"{reducer} cannot run at {share} of the cost: its choosing alone costs more")
    return reduce(model, reducer, flops=best, layers=layers, **options)
