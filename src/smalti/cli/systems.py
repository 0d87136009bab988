"""`smalti systems`: every system, or the card of one."""

from __future__ import annotations

import dataclasses
import json

from smalti.cli import options, screen


def command(
    name: options.Name = None,
    room: options.Word = None,
    as_json: options.Json = False,
) -> None:
    """Every system, or the card of one.

    Args:
        name: the system whose card to show; all in a table when not given.
        room: only this room, such as `tokenizers`.
        as_json: print JSON for other programs.
    """
    from smalti import registry

    cards = registry.systems(room) if name is None else [registry.card(name, room)]
    if as_json:
        screen.print_json([describe(card) for card in cards])
    elif name is None:
        rows = [(card.name, card.room, card.status, ", ".join(card.presets), card.summary) for card in cards]
        screen.console().print(screen.table(("system", "room", "status", "presets", "what it does"), rows))
    else:
        _print_card(describe(cards[0]))


def describe(card) -> dict[str, object]:
    """A card as plain values, with every preset's configuration."""
    return {
        "name": card.name,
        "room": card.room,
        "summary": card.summary,
        "status": card.status,
        "paper": None if card.paper is None else dataclasses.asdict(card.paper),
        "official": None if card.official is None else dataclasses.asdict(card.official),
        "tags": list(card.tags),
        "weights": list(card.weights),
        "presets": {name: dataclasses.asdict(config) for name, config in card.presets.items()},
    }


def _print_card(described: dict) -> None:
    out = screen.console()
    out.print(f"[bold]{described['name']}[/] · {described['room']} · {described['status']}")
    out.print(described["summary"])
    if paper := described["paper"]:
        out.print(f"paper     {paper['title']} ({paper['year']}) {paper['url']}")
    if official := described["official"]:
        out.print(f"official  {official['repository']} ({official['licence']})")
    if described["tags"]:
        out.print(f"tags      {', '.join(described['tags'])}")
    for preset, config in described["presets"].items():
        shipped = " (weights shipped)" if preset in described["weights"] else ""
        out.print(f"preset    [bold]{preset}[/]{shipped}")
        for key, value in config.items():
            out.print(f"  {key} = {json.dumps(value)}")
