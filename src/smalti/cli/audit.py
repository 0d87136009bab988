"""`smalti audit`: what fewer tokens cost and save, for many reducers and budgets."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import tyro

from smalti.cli import options, screen
from smalti.errors import ConfigError

Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]
Listed = Annotated[str, tyro.conf.arg(metavar="A,B,...")]


def command(
    data: options.Inputs,
    model: Model = "dinov2-small",
    weights: options.Word = None,
    depth: options.Count = None,
    reducers: Listed = "tome,zero-tprune",
    keep: Listed = "0.9,0.7,0.5,0.3",
    size: options.Count = None,
    limit: options.Count = None,
    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 10,
    threads: options.Count = None,
    break_even: bool = False,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Reducers on a pretrained model: time, arithmetic and memory saved, and what is left of its answers.

    Random and uniform choice stand beside every reducer, with as many tokens after every block.

    Args:
        data: pictures: files and folders, a folder with one folder a class, or `fashion-mnist`, `scenes`
            or `categories`, which are fetched.
        model: `dinov2-small`, `timm:NAME`, or `transformers:` and a folder or hub id.
        weights: a name that `smalti weights` lists, a file, or `random`; the library's own when not given.
        depth: first blocks of the model to keep; all when not given.
        reducers: names that `smalti systems --room reducers` lists.
        keep: shares of the tokens to leave, four or more.
        size: pixels a side; the model's own when not given.
        limit: pictures to take at most, evenly from all classes.
        repeats: runs of every time.
        threads: processor threads to run on; those that torch has chosen when not given.
        break_even: also find the number of tokens from which on a reducer pays.
        output: folder for the audit: JSON, curves and page.
        as_json: print the audit as JSON.
    """
    from smalti.evaluation import tables
    from smalti.evaluation.audit.bench import Effort
    from smalti.evaluation.audit.run import audit, checked_budgets
    from smalti.evaluation.pretrained import load_model

    if repeats < 1:
        raise ConfigError(f"repeats must be 1 or more, not {repeats}")
    budgets = checked_budgets(numbers(keep))
    use_threads(threads)
    result = audit(
        load_model(model, weights, depth),
        [name.strip() for name in reducers.split(",") if name.strip()],
        data,
        keep=budgets,
        size=size,
        limit=limit,
        effort=Effort(repeats=repeats, break_even=break_even),
        out=output,
        name=model.rpartition(":")[2],
        command=shlex.join(["smalti", *sys.argv[1:]]),
    )
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
        return
    out = screen.console()
    for content in result.tables():
        out.print(tables.table(content))
    for note in result.notes:
        out.print(note, soft_wrap=True)
    if output is not None:
        out.print(f"{output / 'index.html'}: the page", soft_wrap=True)


def numbers(words: str) -> list[float]:
    """The numbers of an option such as `0.9,0.7`.

    Raises:
        ConfigError: something in it is no number.
    """
    try:
        return [float(word) for word in words.split(",")]
    except ValueError as error:
        raise ConfigError(f"{words!r}: write numbers with commas between them, such as 0.9,0.7") from error


def use_threads(threads: int | None) -> None:
    """Run on so many processor threads from now on.

    Raises:
        ConfigError: none.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"threads must be 1 or more, not {threads}")
    torch.set_num_threads(threads)
