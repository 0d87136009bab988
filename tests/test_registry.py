from __future__ import annotations

from dataclasses import dataclass

import pytest

from smalti import registry
from smalti.errors import ConfigError
from smalti.registry import Official, Paper, create, system, systems


@dataclass(frozen=True)
class Config:
    size: int = 1
    depth: int = 2


class Thing:
    """One line that sums up.

    More lines.
    """

    def __init__(self, config: Config) -> None:
        self.config = config


@pytest.fixture(autouse=True)
def cards(monkeypatch) -> None:
    """Systems registered here are forgotten after the test."""
    systems()
    monkeypatch.setattr(registry, "_cards", dict(registry._cards))


@pytest.fixture
def thing() -> type:
    class Mine(Thing):
        __doc__ = Thing.__doc__

    paper, official = Paper("Things", 2024), Official("o/things", "MIT")
    presets = {"small": Config(), "large": Config(size=9)}
    decorate = system(
        "thing", room="reducers", presets=presets, paper=paper, official=official, tags=("red",),
        status="experimental", weights=("small",),
    )  # fmt: skip
    return decorate(Mine)


def test_a_card_holds_what_was_registered(thing) -> None:
    card = registry.card("thing")
    assert (card.name, card.room, card.cls, card.summary) == (
        "thing",
        "reducers",
        thing,
        "One line that sums up.",
    )
    assert (card.paper.year, card.official.licence, card.tags) == (2024, "MIT", ("red",))
    assert (card.status, card.weights, list(card.presets)) == ("experimental", ("small",), ["small", "large"])


def test_systems_are_chosen_by_room_and_tag(thing) -> None:
    assert registry.card("thing") in systems("reducers", "red")
    assert registry.card("thing") not in systems("tokenizers")
    assert registry.card("thing") not in systems(tag="blue")
    places = [(registry.ROOMS.index(card.room), card.name) for card in systems()]
    assert places == sorted(places)


def test_the_first_preset_is_the_default_and_fields_can_be_changed(thing) -> None:
    made = create("thing")
    assert type(made) is thing
    assert made.config == Config()
    assert create("thing", "large", depth=7).config == Config(9, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create("thnig"), "no system 'thnig': did you mean 'thing'"),
        (lambda: create("thing", "smal"), "thing has no preset 'smal': did you mean 'small'"),
        (lambda: create("thing", sise=3), "Config has no field 'sise': did you mean 'size'"),
        (lambda: create("thing", room="tokenizers"), "no system 'thing': known: .*mosaic"),
        (lambda: systems("reducer"), "no room 'reducer': did you mean 'reducers'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(thing, call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_two_systems_of_one_name_live_in_different_rooms_only(thing) -> None:
    with pytest.raises(ConfigError, match="'thing' is registered twice in reducers"):
        system("thing", room="reducers", presets={"a": Config()})(Thing)
    system("thing", room="backbones", presets={"a": Config()})(Thing)
    assert registry.card("thing").cls is thing
    assert registry.card("thing", "backbones").cls is Thing


def test_a_system_needs_a_room_that_exists() -> None:
    with pytest.raises(ConfigError, match="no room 'tokenizer': did you mean 'tokenizers'"):
        system("other", room="tokenizer", presets={"a": Config()})(Thing)
