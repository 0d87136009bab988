"""`evaluate`: where a tokenizer stands, beside the classical codecs at the same bits.

```
tokenizer ──► TokenCoder ──┐
                           ├──► sweep over the data ──► Report ──► table, JSON, plot, page
codecs ──► classical ──────┘
```
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from smalti.evaluation import environment
from smalti.evaluation.classical import classical
from smalti.evaluation.dataset import StrPath, dataset
from smalti.evaluation.examples import examples
from smalti.evaluation.judges import Judges
from smalti.evaluation.rate_distortion import sweep
from smalti.evaluation.report import Report
from smalti.evaluation.token_coder import TokenCoder, TokenFormat
from smalti.media.progress import Report as Progress
from smalti.tokenizers.base import Tokenizer


def evaluate(
    tokenizer: Tokenizer,
    data: StrPath | Sequence[StrPath],
    *,
    qualities: Sequence[int] | None = None,
    max_frames: int | None = None,
    out: StrPath | None = None,
    judges: bool = True,
    name: str | None = None,
    format: TokenFormat | None = None,
    command: str = "",
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Report:
    """Measure a tokenizer on pictures or on clips.

    Args:
        tokenizer: any; its qualities become the points of its curve.
        data: files, folders or both; pictures or clips, not both.
        qualities: those to measure; all when not given.
        max_frames: frames to take of each clip, from its first.
        out: folder for `report.json`, `curves.svg` and `index.html`.
        judges: also the learned figures: perceptual distance, Fréchet distance, classifier agreement.
        name: as tables print the tokenizer; its class's name in lower case when not given.
        format: how tokens become files; token files (`.smt`) when not given.
        command: what the user typed, for the record.
        seed: for tokenizers that draw random numbers.
        progress: see `smalti.media.progress.track`.

    Raises:
        MediaError: no data, data that cannot be read, or pictures and clips together.
        ConfigError: a quality that the tokenizer does not have.
        UnsupportedError: the extra `eval` is not installed, or judges' weights cannot be fetched.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    chosen = dataset(data, max_frames)
    name = name or type(tokenizer).__name__.lower()
    coder = TokenCoder(tokenizer, format or _token_files(tokenizer), name, tuple(qualities or ()) or None)
    panel = Judges() if judges else None
    ours = sweep(chosen, [coder], panel, progress)
    anchors, missing = classical(chosen, panel, progress)
    report = Report(
        tokenizer=_describe(tokenizer, name),
        points=ours.means + anchors.means,
        samples=ours.samples + anchors.samples,
        usage=tuple(coder.usage()),
        run=environment.describe(
            command=command,
            seed=seed,
            seconds=time.perf_counter() - started,
            data={
                "kind": chosen.kind,
                "count": len(chosen),
                "names": [path.name for path in chosen.paths],
                "max_frames": chosen.max_frames,
                "sha256": chosen.digest,
            },
        ),
        notes=tuple(dict.fromkeys(filter(None, (ours.note, *missing)))),
        examples=examples(next(iter(chosen)), coder),
    )
    if out is not None:
        report.save(Path(out))
    return report


def _describe(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "class": type(tokenizer).__name__,
        "fingerprint": tokenizer.fingerprint(),
        "parameters": sum(parameter.numel() for parameter in tokenizer.parameters()),
        "compression": list(tokenizer.compression),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "stages": list(tokenizer.stages),
    }


def _token_files(tokenizer: Tokenizer) -> TokenFormat:
    from smalti.api import load_tokens, save_tokens

    return TokenFormat(save_tokens, partial(load_tokens, tokenizer=tokenizer))
