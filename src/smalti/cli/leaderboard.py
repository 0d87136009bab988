"""`smalti leaderboard`: tokenizers that were evaluated on the same data, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from smalti.cli import options, screen


def command(
    reports: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="REPORT...")] = [],  # noqa: B006
    peers: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    sort: Annotated[str, tyro.conf.arg(metavar="FIGURE")] = "psnr",
    output: options.Output = None,
    no_judges: bool = False,
    as_json: options.Json = False,
) -> None:
    """Reports of `smalti evaluate` side by side, a table for every set of data.

    Args:
        reports: `report.json` files, and folders that hold some.
        peers: folder with `reference/` and a folder of reconstructions for every published tokenizer.
        sort: psnr, ssim, ms_ssim, perceptual, frechet, agreement, bits_per_pixel or tokens; best first.
        output: folder for the leaderboard: JSON and page.
        no_judges: leave out the peers' figures that need downloaded networks.
        as_json: print JSON for other programs.
    """
    from smalti.evaluation import tables
    from smalti.evaluation.leaderboard import leaderboard, read_reports, rows, save, to_json
    from smalti.evaluation.peers import peer_reports

    found = read_reports(reports)
    if peers is not None:
        found += peer_reports(peers, judges=not no_judges)
    boards = leaderboard(found, sort)
    if output is not None:
        save(boards, output)
    if as_json:
        sys.stdout.write(to_json(boards) + "\n")
        return
    for content in rows(boards):
        screen.console().print(tables.table(content))
