"""`smalti evaluate`: a tokenizer's figures beside the classical codecs."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Literal

import tyro

from smalti.cli import options, screen


def command(
    tokenizer: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER")],
    data: options.Inputs = [],  # noqa: B006 (a list is what tyro shows as INPUT...)
    corpus: Annotated[Literal["photos", "clips"], tyro.conf.arg(metavar="CORPUS")] = "photos",
    output: options.Output = None,
    max_frames: options.Count = None,
    no_judges: bool = False,
    as_json: options.Json = False,
) -> None:
    """A tokenizer on pictures or clips: real bytes and fidelity beside the classical codecs.

    Args:
        tokenizer: a name, a file or folder of weights, or a hub id.
        data: files and folders, of pictures or of clips; what the corpus holds out when not given.
        corpus: `photos` or `clips`, as `smalti data` assembles them; read where no data is given.
        output: folder for the report: table, JSON, curve and page.
        max_frames: frames to take of each clip, from its first.
        no_judges: leave out the figures that need downloaded networks.
        as_json: print JSON for other programs.
    """
    from smalti.api import load
    from smalti.evaluation import tables
    from smalti.evaluation.evaluate import evaluate
    from smalti.evaluation.held_out import held_out

    chosen = data or held_out(corpus)
    report = evaluate(
        load(tokenizer),
        chosen,
        max_frames=max_frames,
        out=output,
        judges=not no_judges,
        name=tokenizer,
        command=shlex.join(["smalti", *sys.argv[1:]]),
    )
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
        return
    for content in tables.rows(report):
        screen.console().print(tables.table(content))
