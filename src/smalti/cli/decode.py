"""`smalti decode`: a token file → a picture or a clip."""

from __future__ import annotations

from smalti.cli import options, screen


def command(
    file: options.File,
    output: options.Output = None,
    tokenizer: options.Word = None,
    quality: options.Quality = None,
    start: options.Seconds = None,
    end: options.Seconds = None,
) -> None:
    """A token file becomes a picture or a clip, of the size and length that were encoded.

    Args:
        file: a token file.
        output: what to write; the suffix says the format. Beside the input, .png or .mp4, when not given.
        tokenizer: weights to decode with; those that the file names when not given.
        quality: only the codes of this quality and those before.
        start: first second to decode.
        end: second to stop before.
    """
    from smalti.files import decode_file

    written = decode_file(file, output, tokenizer, quality, start=start, end=end)
    screen.console().print(f"{file} → {written}", soft_wrap=True)
