"""`smalti profile`: what a backbone or an attention costs as tokens grow, beside plain attention."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import tyro

from smalti.cli import options, screen
from smalti.errors import ConfigError

Subject = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Listed = Annotated[str, tyro.conf.arg(metavar="A,B,...")]


def command(
    name: Subject,
    preset: options.Word = None,
    tokens: Listed = "64,256,1024,4096,16384",
    threads: Listed = "1,2",
    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 5,
    seconds: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 10.0,
    width: options.Count = None,
    heads: options.Count = None,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """FLOPs, memory and time over tokens, how they grow, and from where on they pay beside plain attention.

    A backbone runs beside a plain transformer of about as many parameters.

    Args:
        name: a backbone that `smalti systems --room backbones` lists, or `mixers` for ways to mix tokens.
        preset: of the backbone; its first when not given.
        tokens: patches of 16 × 16 pixels of the picture or clip, or tokens of the mixers.
        threads: numbers of processor threads; one is timed by the processor's clock, more by the wall's.
        repeats: runs of every time, at most.
        seconds: a run may take; larger pictures are left out, and the table says so.
        width: channels of the mixers, 384 when not given.
        heads: of the mixers, 6 when not given.
        output: folder for the profile: JSON and curves.
        as_json: print the profile as JSON.
    """
    from smalti.evaluation import tables
    from smalti.evaluation.profiling.run import profile

    result = profile(
        name,
        preset,
        tokens=counts("tokens", tokens),
        threads=counts("threads", threads),
        repeats=repeats,
        cap=seconds,
        width=width,
        heads=heads,
        out=output,
        command=shlex.join(["smalti", *sys.argv[1:]]),
    )
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
        return
    out = screen.console()
    for content in result.tables():
        out.print(tables.table(content))
    for line in result.lines:
        out.print(f"{line.name}: {line.note}", soft_wrap=True)
    for note in result.notes:
        out.print(note, soft_wrap=True)
    if output is not None:
        out.print(f"{output / 'curves.svg'}: the curves", soft_wrap=True)


def counts(what: str, words: str) -> list[int]:
    """The whole numbers of an option such as `64,256`.

    Raises:
        ConfigError: something in it is none.
    """
    try:
        return [int(word) for word in words.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"{what} {words!r}: write whole numbers with commas between them, such as 64,256"
        ) from error
