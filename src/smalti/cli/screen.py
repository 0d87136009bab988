"""What commands print with: the terminal, complaints, tables and plain words for sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output as it is now; wide enough for every table when it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def complain(message: object) -> None:
    """One line on standard error."""
    sys.stderr.write(f"{message}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table: words to the left; columns whose name starts with a space hold numbers, to the right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        drawn.add_column(column.strip(), justify="right" if column.startswith(" ") else "left")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    return drawn


def size(count: int) -> str:
    """Bytes in words: `812 B`, `40.3 kB`, `1.2 MB`."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.1f} {unit}"


def print_json(value: object) -> None:
    """Indented JSON and nothing else, for other programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
