"""Options that several commands share, so that they are spelled the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

Inputs = Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Name = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Output = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
Tokenizer = Annotated[str, tyro.conf.arg(metavar="NAME")]
Quality = Annotated[int | None, tyro.conf.arg(metavar="N")]
Seconds = Annotated[float | None, tyro.conf.arg(metavar="SECONDS")]
Number = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N")]
Word = Annotated[str | None, tyro.conf.arg(metavar="WORD")]
Json = Annotated[bool, tyro.conf.arg(name="json")]
