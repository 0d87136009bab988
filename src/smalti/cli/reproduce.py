"""`smalti reproduce`: run the experiment that shows a system's claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro

from smalti.cli import screen


def command(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("results"),
    seeds: int = 3,
    quick: bool = False,
) -> None:
    """Run the experiment that shows a system's claim; without a name, list what there is.

    Args:
        name: of the system.
        out: folder for NAME.json and NAME.png.
        seeds: how many; results are means over them.
        quick: only show that the experiment runs; its verdict means nothing.
    """
    from smalti.claims.base import claims, reproduce

    console = screen.console()
    if name is None:
        for claim in claims().values():
            console.print(f"{claim.name:24} {claim.minutes:g} minutes")
        return
    found = json.loads(reproduce(name, out, seeds=seeds, quick=quick).read_text())
    for statement, held in found["statements"].items():
        console.print(f"{'✓' if held else '✗'} {statement}")
    console.print(f"{found['verdict']}: {found['figure']}")
    console.print(f"written: {out / name}.json")
