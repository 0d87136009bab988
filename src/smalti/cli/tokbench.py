"""`smalti tokbench`: can words still be read, and faces still be recognised?"""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from smalti.cli import options, screen


def command(
    tokenizers: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER...")],
    data: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    settings: Annotated[list[int], tyro.conf.arg(metavar="PIXELS")] = [256, 512, 1024],  # noqa: B006
    quality: options.Quality = None,
    limit: options.Count = None,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Legible words and recognisable faces behind tokenizers, by their size in the picture (TokBench).

    Args:
        tokenizers: names, files or folders of weights, or hub ids.
        data: folder of pictures, with `text.json` and `face.json` in TokBench's form, or without: then words
            and faces are looked for. Drawn pages, signs and faces from packages when not given.
        settings: sides of the squares that tokenizers are given.
        quality: of every tokenizer; its highest when not given.
        limit: pictures to take at most, evenly from all.
        output: folder for the report: JSON with every word and face, and a page.
        as_json: print JSON for other programs.
    """
    from smalti.api import load, load_tokens, save_tokens
    from smalti.evaluation import environment, tables
    from smalti.evaluation.tokbench import ResizedOnly, TokBench
    from smalti.evaluation.tokbench_data import assembled, digest, folder_samples
    from smalti.evaluation.tokbench_report import TokBenchReport, rows
    from smalti.evaluation.tokbench_scores import bounds
    from smalti.evaluation.token_coder import TokenCoder, TokenFormat

    for setting in settings:
        bounds(setting, "text")
    started = time.perf_counter()
    coders = []
    for name in tokenizers:
        tokenizer = load(name)
        tokenizer.codes_at(quality)
        files = TokenFormat(save_tokens, partial(load_tokens, tokenizer=tokenizer))
        coders.append(TokenCoder(tokenizer, files, name, (quality,) if quality else None))
    bench = TokBench()
    folder = data or assembled(bench)
    samples = folder_samples(folder, bench, curate=data is not None)
    if limit is not None and limit < len(samples):
        samples = [samples[place * len(samples) // limit] for place in range(limit)]
    measured = [bench.run(samples, ResizedOnly(), setting) for setting in settings]
    measured += [bench.run(samples, coder, setting) for setting in settings for coder in coders]
    run = environment.describe(
        command=shlex.join(["smalti", *sys.argv[1:]]),
        seed=0,
        seconds=time.perf_counter() - started,
        data={
            "kind": "picture",
            "count": len(samples),
            "names": [sample.annotated.name for sample in samples],
            "sha256": digest(folder),
        },
    )
    report = TokBenchReport(tuple(measured), bench.strangers(samples), run)
    if output is not None:
        report.save(output)
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
        return
    for content in rows(report):
        screen.console().print(tables.table(content))
    for note in report.notes[1:]:
        screen.console().print(note)
