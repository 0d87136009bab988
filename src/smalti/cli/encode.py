"""`smalti encode`: pictures and clips → token files."""

from __future__ import annotations

from smalti.cli import options, screen
from smalti.cli.inputs import opened, targets
from smalti.errors import SmaltiError


def command(
    inputs: options.Inputs = [],  # noqa: B006 (no input is an error of ours, with our words)
    output: options.Output = None,
    tokenizer: options.Tokenizer = "mosaic",
    quality: options.Quality = None,
    audio: bool = False,
    start: options.Seconds = None,
    end: options.Seconds = None,
    fps: options.Number = None,
) -> int:
    """Pictures and clips become token files, in memory that does not grow with length.

    Inputs are files, folders, globs, and - for standard input. One that cannot be read is reported, and the
    others go on.

    Args:
        inputs: files, folders, globs, or -.
        output: a file for one input, a folder for many; beside the input when not given.
        tokenizer: a name, a file or folder of weights, or a hub id.
        quality: 1 is the smallest file; the highest when not given.
        audio: keep the sound in the token file.
        start: first second of a clip.
        end: second to stop before.
        fps: frames a second to take, instead of every frame.
    """
    from smalti.api import load
    from smalti.files import encode_file

    model = load(tokenizer)
    failed = 0
    with opened(inputs) as found:
        for each, target in zip(found, targets(found, output, ".smt"), strict=True):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                done = encode_file(
                    each.path, target, model, quality, audio=audio, start=start, end=end, fps=fps
                )
            except (SmaltiError, OSError) as error:
                if len(found) == 1:
                    raise
                failed += 1
                screen.complain(f"error: {error}")
                continue
            screen.console().print(f"{each.path} → {target}: {done}", soft_wrap=True)
    if failed:
        screen.complain(f"{failed} of {len(found)} inputs could not be encoded")
    return 3 if failed else 0
