"""`smalti info`: what a token file or a media file holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from smalti.cli import options, screen

TOKEN_SUFFIX = ".smt"


def command(file: options.File, as_json: options.Json = False, verify: bool = False) -> None:
    """What a token file holds: sizes, rates, tokenizer, index; or what the header of a picture or clip says.

    Args:
        file: a token file, picture or clip.
        as_json: print JSON for other programs.
        verify: read a token file to its end and compare every checksum.
    """
    told = _of_tokens(file, verify) if file.suffix == TOKEN_SUFFIX else _of_media(file)
    if as_json:
        screen.print_json(told)
        return
    rows = [(key, _plain(value)) for key, value in told.items() if key != "chunks"]
    out = screen.console()
    out.print(screen.table(("", ""), rows))
    if "chunks" in told:
        out.print(f"{len(told['chunks'])} chunks (--json lists them)")


def _of_tokens(file: Path, verify: bool) -> dict[str, Any]:
    from smalti.codec import TokenFile

    with TokenFile.open(file) as tokens:
        if verify:
            tokens.verify()
        return tokens.info()


def _of_media(file: Path) -> dict[str, Any]:
    from smalti.media import probe

    return {**dataclasses.asdict(probe(file)), "path": str(file), "bytes": file.stat().st_size}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items()) or "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False).strip('"') if value is not None else "–"
