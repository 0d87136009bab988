"""Names → systems. Everything generated about systems (tables, `smalti systems`, tests) comes from here.

```
@system("tome", room="reducers", paper=Paper("Token Merging…", 2023), presets={"r13": Config(r=13)})
class ToMe(Reducer): ...

smalti.systems("reducers") ──► cards        smalti.create("tome", "r13", r=8) ──► ToMe(Config(r=8))
```
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from smalti.errors import ConfigError, nearest

ROOMS = ("quantizers", "tokenizers", "reducers", "backbones", "videollm", "generators", "evaluation")
Status = Literal["stable", "reconstruction", "experimental"]
T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    title: str
    year: int
    url: str = ""


@dataclass(frozen=True)
class Official:
    """The authors' own code and its licence."""

    repository: str
    licence: str


@dataclass(frozen=True)
class Card:
    """What is known of one system.

    Attributes:
        name: the key, as in `smalti.create(name)`.
        room: the folder it lives in.
        cls: the class that a preset's configuration builds.
        presets: configurations under their official names; the first is the default.
        paper: none for controls and for what was designed here.
        official: the authors' code, where it is public.
        tags: words to search by.
        status: `stable`; `reconstruction` where the source leaves points open; `experimental`.
        weights: presets whose weights come with the package.
    """

    name: str
    room: str
    cls: type
    presets: Mapping[str, Any]
    paper: Paper | None = None
    official: Official | None = None
    tags: tuple[str, ...] = ()
    status: Status = "stable"
    weights: tuple[str, ...] = ()
    summary: str = field(default="")


_cards: dict[tuple[str, str], Card] = {}


def system(
    name: str,
    *,
    room: str,
    presets: Mapping[str, Any],
    paper: Paper | None = None,
    official: Official | None = None,
    tags: tuple[str, ...] = (),
    status: Status = "stable",
    weights: tuple[str, ...] = (),
) -> Callable[[T], T]:
    """Register the decorated class under `name`. Its docstring's first line becomes the summary."""

    def register(cls: T) -> T:
        if (room, name) in _cards:
            raise ConfigError(f"system {name!r} is registered twice in {room}")
        if room not in ROOMS:
            raise ConfigError(f"no room {room!r}: {nearest(room, ROOMS)}")
        summary = (cls.__doc__ or "").strip().splitlines()
        _cards[room, name] = Card(
            name, room, cls, presets, paper, official, tags, status, weights, summary[0] if summary else ""
        )
        return cls

    return register


@cache
def _import_room(room: str) -> None:
    try:
        package = importlib.import_module(f"smalti.{room}")
    except ModuleNotFoundError as error:
        if error.name == f"smalti.{room}":
            return
        raise
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"smalti.{room}.{module.name}")


def systems(room: str | None = None, tag: str | None = None) -> list[Card]:
    """Cards of every registered system, in order of room and name."""
    if room is not None and room not in ROOMS:
        raise ConfigError(f"no room {room!r}: {nearest(room, ROOMS)}")
    for wanted in ROOMS if room is None else (room,):
        _import_room(wanted)
    chosen = (c for c in _cards.values() if room in (None, c.room) and (tag is None or tag in c.tags))
    return sorted(chosen, key=lambda card: (ROOMS.index(card.room), card.name))


def card(name: str, room: str | None = None) -> Card:
    """The card of one system. A name that stands in several rooms means the first of `ROOMS`.

    Raises:
        ConfigError: no such system; the message names the nearest.
    """
    if room is not None and room not in ROOMS:
        raise ConfigError(f"no room {room!r}: {nearest(room, ROOMS)}")
    for wanted in ROOMS if room is None else (room,):
        _import_room(wanted)
        if (wanted, name) in _cards:
            return _cards[wanted, name]
    raise ConfigError(f"no system {name!r}: {nearest(name, {c.name for c in systems(room)})}")


def card_of(cls: type) -> Card:
    """The card of a registered class.

    Raises:
        ConfigError: it is not registered.
    """
    for found in _cards.values():
        if found.cls is cls:
            return found
    raise ConfigError(f"{cls.__name__} is not a registered system: decorate it with @system")


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen configuration with some fields changed; unknown fields are refused by name."""
    fields = {f.name for f in dataclasses.fields(config)}
    for key in changes:
        if key not in fields:
            raise ConfigError(f"{type(config).__name__} has no field {key!r}: {nearest(key, fields)}")
    return dataclasses.replace(config, **changes)


def create(name: str, preset: str | None = None, *, room: str | None = None, **changes: Any) -> Any:
    """A new system with random weights, from one of its presets with some fields changed.

    Raises:
        ConfigError: unknown name, preset or field.
    """
    found = card(name, room)
    preset = next(iter(found.presets)) if preset is None else preset
    if preset not in found.presets:
        raise ConfigError(f"{name} has no preset {preset!r}: {nearest(preset, found.presets)}")
    return found.cls(replace(found.presets[preset], changes))
