"""`smalti trim`: a token file of lower quality, without decoding."""

from __future__ import annotations

from typing import Annotated

import tyro

from smalti.cli import options, screen
from smalti.errors import ConfigError


def command(
    file: options.File,
    quality: Annotated[int, tyro.conf.arg(metavar="N")],
    output: options.Output = None,
) -> None:
    """A token file of lower quality, cut out without decoding anything.

    Args:
        file: a token file.
        quality: how many quality stages to keep.
        output: the token file to write.
    """
    from smalti import codec

    if output is None:
        raise ConfigError("name the file to write: -o PATH")
    codec.trim(file, output, quality)
    before, after = file.stat().st_size, output.stat().st_size
    screen.console().print(f"{file} → {output}: {screen.size(before)} → {screen.size(after)}", soft_wrap=True)
