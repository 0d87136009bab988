"""Progress on a terminal, for whatever lasts longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Report = Callable[[int, int | None], None]
PATIENCE = 2.0


def track(
    items: Iterable[T],
    what: str,
    total: int | None,
    progress: bool | Report | None = None,
) -> Iterator[T]:
    """Pass items on and show how many have passed.

    Args:
        items: anything.
        what: the line's title.
        total: how many are expected, if that is known.
        progress: a function that is told (done, total) after every item; False for silence; None for a bar
            on standard error, if that is a terminal, once two seconds have gone.
    """
    if callable(progress):
        for done, item in enumerate(items, start=1):
            yield item
            progress(done, total)
    elif progress is False or (progress is None and not sys.stderr.isatty()):
        yield from items
    else:
        yield from _with_bar(items, what, total)


def _with_bar(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    began = time.monotonic()
    bar: Progress | None = None
    try:
        for done, item in enumerate(items, start=1):
            yield item
            if bar is None and time.monotonic() - began > PATIENCE:
                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task(what, total=total)
                bar.start()
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()
