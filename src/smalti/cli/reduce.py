"""`smalti reduce`: a pretrained model on fewer tokens, for one look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from smalti.cli import options, screen
from smalti.errors import ConfigError


def command(
    images: options.Inputs,
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "dinov2-small",
    weights: options.Word = None,
    depth: options.Count = None,
    reducer: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tome",
    keep: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.5,
    size: options.Count = None,
    overlay: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    as_json: options.Json = False,
) -> None:
    """Pictures through a pretrained model with fewer tokens: its cost, and how much of its answer is left.

    Args:
        images: pictures: files, folders or globs.
        model: `dinov2-small`, `timm:NAME`, or `transformers:` and a folder or hub id.
        weights: a name that `smalti weights` lists, a file, or `random`; the library's own when not given.
        depth: first blocks of the model to keep; all when not given.
        reducer: a name that `smalti systems --room reducers` lists.
        keep: share of the tokens that is left after the last block.
        size: pixels a side; the model's own when not given.
        overlay: folder for the pictures with their tokens drawn on them.
        as_json: print JSON for other programs.
    """
    from smalti.cli.inputs import opened, targets
    from smalti.evaluation.audit.glance import glance
    from smalti.evaluation.pretrained import load_model

    if overlay is not None and overlay.is_file():
        raise ConfigError(f"{overlay} is a file: name a folder for the overlays")
    with opened(images) as inputs:
        seen = glance(
            load_model(model, weights, depth), reducer, keep, [one.path for one in inputs], size=size
        )
        written = [] if overlay is None else targets(inputs, overlay / "", ".png")
    for place, path in enumerate(written):
        path.parent.mkdir(parents=True, exist_ok=True)
        seen.overlay(place).save(path)
    told = {
        "reducer": reducer,
        "keep": keep,
        "counts": list(seen.counts),
        "gflops": seen.flops / 1e9,
        "full_gflops": seen.full_flops / 1e9,
        "milliseconds": 1e3 * seen.speed.seconds,
        "full_milliseconds": 1e3 * seen.speed.full_seconds,
        "cosines": {str(one.path): cosine for one, cosine in zip(inputs, seen.cosines, strict=True)},
        "overlays": [str(path) for path in written],
    }
    if as_json:
        screen.print_json(told)
        return
    saved = f"{seen.flops / seen.full_flops:.0%} of the FLOPs"
    rows = [
        ("tokens after every block", " ".join(map(str, seen.counts))),
        ("multiply-adds", f"{told['gflops']:.3f} G of {told['full_gflops']:.3f} G: {saved}"),
        ("one picture", f"{told['milliseconds']:.1f} ms, before {told['full_milliseconds']:.1f} ms"),
        *(
            (f"cosine to the full model, {Path(name).name}", f"{c:.4f}")
            for name, c in told["cosines"].items()
        ),
    ]
    out = screen.console()
    out.print(screen.table(("", ""), rows))
    if written:
        out.print(f"{overlay}: {len(written)} overlays", soft_wrap=True)
