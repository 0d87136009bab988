"""Reducers to audit, made anew for every seed, and the controls beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from smalti import registry
from smalti.reducers.base import Reducer

CONTROLS = ("random", "uniform")


@dataclass(frozen=True)
class Candidate:
    """A reducer that can be made.

    Attributes:
        name: as tables print it.
        make: a reducer, given a seed.
        seeded: whether the seed changes anything.
        trained: whether it needs weights of its own, which are random here.
    """

    name: str
    make: Callable[[int], Reducer]
    seeded: bool = False
    trained: bool = False


def candidate(reducer: str | Reducer) -> Candidate:
    """A candidate by name, `name:preset`, or from a reducer that is made.

    Raises:
        ConfigError: unknown name or preset.
    """
    if isinstance(reducer, Reducer):
        return Candidate(type(reducer).__name__.lower(), lambda seed: reducer)
    name, _, preset = reducer.partition(":")
    card = registry.card(name, "reducers")
    registry.create(name, preset or None, room="reducers")
    seeded = "seed" in {field.name for field in dataclasses.fields(next(iter(card.presets.values())))}

    def make(seed: int) -> Reducer:
        changes = {"seed": seed} if seeded else {}
        return registry.create(name, preset or None, room="reducers", **changes)

    return Candidate(reducer, make, seeded, "training-free" not in card.tags)


def control(name: str, place: str) -> Candidate:
    """A control that reduces at the same place of a block as the reducer it stands beside."""
    known = candidate(name)

    def make(seed: int) -> Reducer:
        reducer = known.make(seed)
        vars(reducer)["place"] = place
        return reducer

    return Candidate(name, make, known.seeded)
