"""Passes over the pictures: what a model answers, and which tokens it had left.

```
pictures ─► run_pass(handle) ─► Pass: pooled [n c], named [n], tokens [k p d], kept [n p], centres [n m 2]
                                   ├─► choice: where tokens lie        against the full model's Pass: fidelity
                                   └─► shifted, noisy, other seeds ─► steadiness
```
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from smalti.evaluation.audit import fidelity, selection
from smalti.evaluation.audit.material import Material
from smalti.evaluation.audit.subject import Subject
from smalti.reducers.hosts.handle import Handle
from smalti.reducers.reduction import Reduction

BATCH = 8
DENSE = 32  # pictures whose tokens are compared one by one
STEADY = 16  # pictures that are shifted, made noisy and drawn anew
NOISE = 1 / 255


@dataclass(frozen=True)
class Pass:
    """Every picture seen once.

    Attributes:
        pooled: features.
        named: most likely class, or the nearest other picture where there are no classes.
        tokens: of the first `DENSE` pictures, patches only, all of them.
        kept: patches that a remaining token stands on: the heaviest of those that went to it.
        centres: where tokens lie.
        real: number of real tokens, those in front included.
        likeness: mean cosine of two remaining tokens.
        first: the reduction of the first batch, if the model was reduced.
    """

    pooled: Float[Tensor, "n c"]
    named: Int[Tensor, "n"]
    tokens: Float[Tensor, "k p d"]
    kept: Bool[Tensor, "n p"]
    centres: Float[Tensor, "n m 2"]
    real: Float[Tensor, "n"]
    likeness: float
    first: Reduction | None


def run_pass(subject: Subject, pictures: Material, handle: Handle | None = None) -> Pass:
    """Every picture through the model, reduced by that handle if one is given."""
    prefix, depth = subject.host.prefix, len(subject.host.blocks)
    pooled, logits, tokens, kept, centres, real, alike = [], [], [], [], [], [], []
    first = None
    if handle is not None:
        handle.dense = True
    for pixels in pictures.batches(BATCH):
        answer = subject.answer(pixels, handle)
        size, count = answer.tokens.shape[1], answer.left.shape[1]
        mask = torch.ones(answer.left.shape[:2], dtype=torch.bool, device=answer.left.device)
        source_map = torch.arange(size, device=mask.device).expand(len(pixels), -1)
        origin = None
        if handle is not None:
            whole, origin = handle.reduction, handle.origin(depth)
            first = first or whole
            mask = whole.mask.expand_as(mask)
            source_map = whole.source_map.expand(len(pixels), -1)
        origin = source_map if origin is None else origin
        stands = torch.zeros(len(pixels), size + 1, dtype=torch.bool, device=mask.device)
        stands = stands.scatter(1, torch.where(mask, origin, size), True)
        pooled.append(answer.pooled)
        logits.append(answer.logits)
        kept.append(stands[:, prefix:size])
        centres.append(selection.centres(source_map, count, subject.grid, prefix))
        real.append(mask.sum(1).double())
        alike.append(selection.likeness(answer.left[:, prefix:], mask[:, prefix:]) * len(pixels))
        if sum(map(len, tokens)) < DENSE:
            tokens.append(answer.tokens[:, prefix:])
    if handle is not None:
        handle.dense = False
    features = torch.cat(pooled)
    classes = None if logits[0] is None else torch.cat(logits).argmax(1)
    most = max(one.shape[1] for one in centres)
    return Pass(
        pooled=features,
        named=fidelity.nearest_other(features) if classes is None else classes,
        tokens=torch.cat(tokens)[:DENSE],
        kept=torch.cat(kept),
        centres=torch.cat([F.pad(c, (0, 0, 0, most - c.shape[1]), value=math.nan) for c in centres]),
        real=torch.cat(real),
        likeness=sum(alike) / len(pictures),
        first=first,
    )


def likeness_to(full: Pass, reduced: Pass) -> dict[str, float]:
    """How much of the full model's answer the reduced model gives."""
    return {
        "cosine": fidelity.cosine(full.pooled, reduced.pooled),
        "cka": fidelity.cka(full.pooled, reduced.pooled),
        "restored": fidelity.cosine(full.tokens, reduced.tokens),
        "agreement": fidelity.agreement(full.named, reduced.named),
    }


def choice(done: Pass, grid: tuple[int, int]) -> dict[str, float | tuple[float, ...]]:
    """Where the tokens lie."""
    row, column = selection.middle(done.centres, grid)
    return {
        "rows": selection.histogram(done.centres, 0, grid[0]),
        "columns": selection.histogram(done.centres, 1, grid[1]),
        "middle_row": row,
        "middle_column": column,
        "coverage": selection.coverage(done.centres, grid),
        "likeness": done.likeness,
    }


def steadiness(subject: Subject, pictures: Material, handle: Handle) -> dict[str, float]:
    """Share of kept places that survive a shift by one pixel, and noise."""
    few = Material(pictures.name, pictures.pixels[:STEADY])
    before = run_pass(subject, few, handle).kept
    return {
        f"{name}_overlap": selection.overlap(before, run_pass(subject, change(few), handle).kept)
        for name, change in (("shift", shifted), ("noise", noisy))
    }


def seed_spread(
    subject: Subject, pictures: Material, full: Pass, seeds: int, reduced: Callable[[int], Handle]
) -> dict[str, float]:
    """How much kept places and the cosine to the full model vary between seeds."""
    few = Material(pictures.name, pictures.pixels[:STEADY])
    kept, cosines = [], []
    for seed in range(seeds):
        with reduced(seed) as handle:
            done = run_pass(subject, few, handle)
        kept.append(done.kept)
        cosines.append(fidelity.cosine(full.pooled[: len(few)], done.pooled))
    pairs = [selection.overlap(one, other) for one, other in itertools.combinations(kept, 2)]
    return {"seed_overlap": fmean(pairs), "seed_spread": pstdev(cosines)}


def adaptivity(pictures: Material, done: Pass) -> float:
    """Rank correlation of the number of tokens with the bytes that the picture takes as JPEG."""
    sizes = torch.tensor([jpeg_bytes(one) for one in pictures.pixels], dtype=torch.float64)
    return selection.rank_correlation(done.real.cpu(), sizes)


def shifted(pictures: Material) -> Material:
    """The pictures moved by one pixel to the lower right; what enters repeats the border."""
    moved = F.pad(pictures.pixels.float(), (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
    return Material(pictures.name, moved.to(torch.uint8))


def noisy(pictures: Material) -> Material:
    """The pictures with a grey level of noise, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(pictures.pixels.shape, generator=generator) * NOISE * 255
    return Material(pictures.name, (pictures.pixels + noise).round().clamp(0, 255).to(torch.uint8))


def jpeg_bytes(pixels: Tensor) -> int:
    """Bytes of a picture as JPEG of quality 75."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    return file.tell()
