"""What the tensors of official checkpoints tell of the model that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.strict_loading import numbered


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint without the `module.` that parallel training leaves in front of every name."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def counted(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts are numbered behind a prefix, such as `blocks.`."""
    return len(numbered(state, re.escape(prefix) + r"(\d+)\."))


def square_side(table: Tensor, prefix: int = 1) -> int:
    """Side of the square picture, in tokens, that a table of positions [1 n d] stands for.

    Raises:
        ConfigError: it stands for no square.
    """
    places = table.shape[1] - prefix
    side = round(max(places, 0) ** 0.5)
    if side < 1 or side * side != places:
        raise ConfigError(f"a table of {places} positions is not one of a square picture")
    return side
