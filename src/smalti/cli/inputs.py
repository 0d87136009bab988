"""What a user may name as input: files, folders, globs and `-` for standard input.

```
photo.jpg  holiday/  "clips/*.mp4"  -   ──►  one Input for every picture and clip
```
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smalti.errors import ConfigError


@dataclass(frozen=True)
class Input:
    """One file to work on.

    Attributes:
        path: where it is.
        beside: its output without suffix, when no output is named.
        name: its output without suffix, inside the output folder.
    """

    path: Path
    beside: Path
    name: Path


@contextlib.contextmanager
def opened(named: Sequence[str]) -> Iterator[list[Input]]:
    """Every file that the user named; standard input is kept in a temporary file meanwhile.

    Raises:
        ConfigError: nothing was named, or `-` twice.
        MediaError: a glob or folder that holds no picture or clip.
    """
    if not named:
        raise ConfigError("no input: name a file, a folder, a glob, or - for standard input")
    if list(named).count("-") > 1:
        raise ConfigError("standard input (-) can be read once only")
    with contextlib.ExitStack() as stack:
        found = []
        for name in named:
            if name == "-":
                found.append(Input(stack.enter_context(_standard_input()), Path("stdin"), Path("stdin")))
            else:
                found.extend(_find(name))
        yield found


@contextlib.contextmanager
def _standard_input() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _find(name: str) -> list[Input]:
    from smalti.media import sources

    path = Path(name)
    if path.is_dir():
        return [Input(p, p.with_suffix(""), p.relative_to(path).with_suffix("")) for p in sources(path)]
    listed = sources(name) if glob.has_magic(name) and not os.path.lexists(name) else [path]
    return [Input(p, p.with_suffix(""), Path(p.stem)) for p in listed]


def targets(inputs: Sequence[Input], output: Path | None, suffix: str) -> list[Path]:
    """Where every input's result goes: beside it, into a folder, or to the one file named.

    Two inputs of the same stem (`a.png`, `a.jpg`) keep their own suffix too: `a.png.smt`, `a.jpg.smt`.

    Raises:
        ConfigError: several inputs and one output file, or two inputs with one name.
    """
    if output is not None and output.suffix and not output.is_dir():
        if len(inputs) == 1:
            return [output]
        raise ConfigError(f"{len(inputs)} inputs cannot all go to {output}: name a folder with -o")
    bare = [each.beside if output is None else output / each.name for each in inputs]
    alike = {place for place, count in Counter(bare).items() if count > 1}
    places = [
        place.with_name((each.path.name if place in alike else place.name) + suffix)
        for each, place in zip(inputs, bare, strict=True)
    ]
    for place, count in Counter(places).items():
        if count > 1:
            raise ConfigError(f"{count} inputs would be written to {place}: encode them one folder at a time")
    return places
