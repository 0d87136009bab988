"""Parts of a recipe, found by name, with options that are checked before anything runs.

```
@objective("mosaic", MosaicOptions)         recipe: {name: mosaic, options: {forget: 0.1}}
class MosaicObjective: ...                          └──► MosaicObjective(system, MosaicOptions(forget=0.1))
```
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from smalti import weights
from smalti.errors import ConfigError, nearest

Maker = TypeVar("Maker", bound=Callable[..., Any])


@dataclass(frozen=True)
class Choice:
    """What a recipe says of a part: its registered name, and options as plain values."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoOptions:
    """Of parts that have none."""


class Parts:
    """Names → makers of one kind of part; a maker is called with the system to train and the options.

    Args:
        kind: the word for messages.
        package: whose modules register their parts when they are imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._known: dict[str, tuple[Callable[..., Any], type]] = {}

    def __call__(self, name: str, options: type = NoOptions) -> Callable[[Maker], Maker]:
        """Register the decorated class or function; `options` is a frozen dataclass."""

        def register(maker: Maker) -> Maker:
            if name in self._known:
                raise ConfigError(f"{self.kind} {name!r} is registered twice")
            self._known[name] = (maker, options)
            return maker

        return register

    def names(self) -> list[str]:
        """Every name there is."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._known)

    def options(self, choice: Choice) -> Any:
        """The choice's options as the part's dataclass.

        Raises:
            ConfigError: no part of that name, an option that it does not have, or a value of another type.
        """
        if choice.name not in (known := self.names()):
            raise ConfigError(f"no {self.kind} {choice.name!r}: {nearest(choice.name, known)}")
        return weights.build(self._known[choice.name][1], choice.options)

    def make(self, choice: Choice, system: nn.Module) -> Any:
        """The part, for a system.

        Raises:
            ConfigError: as `options`.
        """
        options = self.options(choice)
        return self._known[choice.name][0](system, options)
