"""The `smalti` command: one file a subcommand, imported only when it is called.

```
smalti NAME options ──► COMMANDS ──► smalti/cli/NAME.py: command(options) ──► exit code
                                          └─ SmaltiError ──► one line on stderr, its exit code
```

Exit codes: 0 done, 2 usage, 3 bad input, 4 integrity, 5 resources, 130 interrupt. `--debug` shows tracebacks.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

COMMANDS = {
    "demo": "A clip and a photograph become tokens and come back; a page with the numbers",
    "encode": "Pictures and clips → token files",
    "decode": "A token file → a picture or a clip",
    "info": "What a token file or a media file holds",
    "trim": "A token file of lower quality, without decoding",
    "compare": "One picture through Smalti and the classical codecs at equal bytes",
    "evaluate": "A tokenizer's figures beside the classical codecs",
    "leaderboard": "Tokenizers that were evaluated on the same data, in one table",
    "tokbench": "Words still legible, faces still recognisable behind tokenizers",
    "reduce": "A pretrained model on fewer tokens: what it costs, and which patches became one",
    "audit": "What fewer tokens cost and save, for many reducers and budgets",
    "profile": "What a backbone or an attention costs as tokens grow",
    "systems": "Every system, or the card of one",
    "reproduce": "Run the experiment that shows a system's claim",
    "weights": "Trained networks that can be fetched, or one of them",
    "train": "Train by a recipe",
    "data": "Assemble the training pictures and clips",
    "doctor": "What this machine and installation can do",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    _interrupt_once()
    try:
        return _dispatch(given)
    except BaseException as error:
        if debug or isinstance(error, GeneratorExit):
            raise
        return _explain(error)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        _print_help()
        return 0
    if given[0] == "--version":
        from smalti._version import __version__

        sys.stdout.write(f"smalti {__version__}\n")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        from smalti.errors import ConfigError, nearest

        raise ConfigError(f"no command {name!r}: {nearest(name, COMMANDS)}")

    import tyro

    command = importlib.import_module(f"smalti.cli.{name}").command
    return tyro.cli(command, args=rest, prog=f"smalti {name}", config=(tyro.conf.FlagCreatePairsOff,)) or 0


def _print_help() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]smalti[/] turns pictures and video into few, faithful tokens, and back.\n")
    console.print("Usage: smalti COMMAND \\[options]    [dim](smalti COMMAND --help lists the options)[/]\n")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, summary in COMMANDS.items():
        table.add_row(f"  [bold]{name}[/]", summary)
    console.print(table)
    console.print("\n  --version, --help; --debug with any command shows the whole traceback")


def _interrupt_once() -> None:
    """The first Ctrl-C lets work end cleanly; the second ends the process at once."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, interrupted)
    except ValueError:
        return  # signals belong to the main thread


def _explain(error: BaseException) -> int:
    """Say on stderr what went wrong, in one line, and choose the exit code."""
    from smalti.errors import SmaltiError

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 2
    if isinstance(error, KeyboardInterrupt):
        return _say("interrupted", 130)
    if isinstance(error, SmaltiError):
        return _say(f"error: {error}", error.exit_code)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, MemoryError):
        return _say("error: not enough memory: choose a smaller size or a shorter part", 5)
    if isinstance(error, OSError):
        return _say(f"error: {error}", 5 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else 3)
    return _say(f"error: {type(error).__name__}: {error}\nThis is a fault of Smalti: --debug shows where.", 1)


def _say(message: str, exit_code: int) -> int:
    sys.stderr.write(message + "\n")
    return exit_code
