"""`smalti compare`: one picture through Smalti and the classical codecs at equal bytes."""

from __future__ import annotations

from pathlib import Path

from smalti.cli import options, screen


def command(
    file: options.File,
    output: options.Output = None,
    tokenizer: options.Tokenizer = "mosaic",
    quality: options.Quality = None,
    as_json: options.Json = False,
) -> None:
    """A picture or clip through Smalti and the classical codecs at equal bytes: a picture and a table.

    Args:
        file: a picture or a short clip.
        output: the picture to write; FILE-compared.png when not given.
        tokenizer: a name, a file or folder of weights, or a hub id.
        quality: of the token file, whose bytes the others may use.
        as_json: print the figures as JSON.
    """
    from smalti.cli import comparison

    original, entries = comparison.of_file(file, tokenizer, quality)
    output = output or Path(f"{file.stem}-compared.png")
    comparison.picture(original, entries).save(output)
    if as_json:
        screen.print_json([entry.as_json() for entry in entries])
        return
    out = screen.console()
    out.print(comparison.table(entries, f"{file} at the bytes of its token file"))
    out.print(f"\n{output}: side by side", soft_wrap=True)
