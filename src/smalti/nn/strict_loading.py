"""Official checkpoints: other people's names become ours, and every tensor must find its place.

```
names → tensors ──► renamed(rules) ──► our names → tensors ──► load_strictly ──► module, or what does not fit
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from smalti.errors import ConfigError


def renamed(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors under new names; every rule is a regular expression and what replaces it, in this order."""
    out = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


def told(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that every checkpoint of a system has.

    Raises:
        ConfigError: it is not there.
    """
    if name not in state:
        raise ConfigError(f"this checkpoint is not one of this system: it has no {name}")
    return state[name]


def numbered(state: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """The numbers found by the group of a regular expression at the beginning of names, in order."""
    return tuple(sorted({int(found[1]) for name in state if (found := re.match(pattern, name))}))


def load_strictly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights whose names and shapes must all fit.

    Raises:
        ConfigError: names the keys that do not.
    """
    wanted = module.state_dict()
    missing, superfluous = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if missing or superfluous or wrong:
        raise ConfigError(
            f"these weights do not fit {type(module).__name__}: missing {missing[:6] or 'none'}, "
            f"superfluous {superfluous[:6] or 'none'}, of another shape {wrong[:6] or 'none'}"
        )
    module.load_state_dict(dict(state))
