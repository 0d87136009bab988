"""How much of the arithmetic that reducers save becomes time saved, and ToMe's merge beside tomesd's.

    python benchmarks/reducers_speed.py [--models small] [--batches 1] [--reducers tome random]

Reducers at keep 0.5 in timm's ViT-S/14 (DINOv2; 256 and 1,369 patches) and ViT-B/16, random weights. Share of
the bound = (time of the whole model ÷ time of the reduced one) ÷ (its FLOPs ÷ theirs), where FLOPs are those
of the blocks. Both run by turns, and processor time is compared.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import tyro
from common import SEED, Target, Timing, interleaved, report, table
from torch import Tensor

import smalti
from smalti.reducers import Context
from smalti.reducers.hosts.handle import Handle

MODELS = {
    "small": ("vit_small_patch14_dinov2", 224),
    "small-large": ("vit_small_patch14_dinov2", 518),
    "base": ("vit_base_patch16_224", 224),
}
REDUCERS = ("tome", "random", "uniform", "pool", "token-transforming", "zero-tprune", "cluster-reconstruct")
INHERENT = ("zero-tprune", "cluster-reconstruct", "token-transforming")  # maps of attention, dense mixtures
LENGTHS = (576, 2048, 6272)


def main(
    models: tuple[str, ...] = ("small", "small-large", "base"),
    batches: tuple[int, ...] = (1, 8),
    reducers: tuple[str, ...] = REDUCERS,
    repeats: int = 5,
    threads: int = 1,
) -> int:
    """Measure.

    Args:
        models: of small, small-large and base.
        batches: pictures at once.
        reducers: by name.
        repeats: rounds that count.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    targets: list[Target] = []
    for name in models:
        kind, side = MODELS[name]
        whole = timm.create_model(kind, img_size=side, num_classes=0).eval()
        for batch in batches:
            pictures = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(SEED))
            for reducer in reducers:
                row = share(whole, reducer, pictures, repeats)
                rows.append({"model": f"{kind}, {side} pixels", "batch": batch, "reducer": reducer, **row})
                limit = 0.95 if reducer == "tome" else 0.85
                if reducer not in INHERENT:
                    targets.append(Target(f"share, {name}, batch {batch}, {reducer}", row["share"], limit))
    merges = [merging(count, repeats) for count in LENGTHS]
    targets += [Target(f"merge of {row['tokens']}, times tomesd", row["ratio"], 1) for row in merges]
    return report(
        "reducers_speed",
        [table("share of the FLOPs bound", rows), table("merging half beside tomesd", merges)],
        {"repeats": repeats, "threads": threads, "rows": rows, "merges": merges},
        targets,
        data={"pictures": "noise", "keep": 0.5, "clock": "processor"},
        began=began,
    )


@torch.no_grad()
def share(model: torch.nn.Module, reducer: str, pictures: Tensor, repeats: int) -> dict[str, Any]:
    """Arithmetic and time that are left, and the share of the bound."""
    reduced = copy.deepcopy(model)
    handle = smalti.reduce(reduced, reducer, keep=0.5)
    times = interleaved({"whole": lambda: model(pictures), "reduced": lambda: reduced(pictures)}, repeats)
    left = flops_left(handle)
    spent = _median(times["reduced"]) / _median(times["whole"])
    return {
        "tokens": handle.counts[-1],
        "FLOPs left": round(left, 4),
        "time left": round(spent, 4),
        "share": round(left / spent, 4),
    }


def flops_left(handle: Handle) -> float:
    """Share of the blocks' multiply-adds that the last forward spent."""
    sizes, counts = handle.host.sizes, handle.counts
    tokens = handle.reduction.size
    before = (tokens, *counts[:-1])
    inside = handle.reducer.place == "inside"
    return sum(map(sizes.cost, before, counts if inside else before)) / (
        len(counts) * sizes.cost(tokens, tokens)
    )


@torch.no_grad()
def merging(count: int, repeats: int) -> dict[str, Any]:
    """Matching, merging and unmerging half of the tokens, by ToMe's halves and by tomesd's random grid."""
    from tomesd.merge import bipartite_soft_matching_random2d

    height = {576: 24, 2048: 32, 6272: 64}[count]
    width = count // height
    tokens = torch.randn(1, count, 320, generator=torch.Generator().manual_seed(SEED))
    reducer = smalti.create("tome", room="reducers", metric="tokens")

    def ours() -> Tensor:
        reduction = reducer.reduce(tokens, Context(), count - count // 2)
        return reduction.restore(reduction.apply(tokens))

    random = torch.Generator().manual_seed(SEED)

    def theirs() -> Tensor:
        merge, unmerge = bipartite_soft_matching_random2d(
            tokens, width, height, 2, 2, count // 2, generator=random
        )
        return unmerge(merge(tokens))

    contestants: dict[str, Callable[[], Tensor]] = {"smalti": ours, "tomesd": theirs}
    times = interleaved(contestants, repeats)
    spent = {name: 1e3 * _median(timing) for name, timing in times.items()}
    return {
        "tokens": count,
        **{f"{name}, ms": round(value, 3) for name, value in spent.items()},
        "ratio": round(spent["tomesd"] / spent["smalti"], 3),
    }


def _median(timing: Timing) -> float:
    return statistics.median(timing.processor)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
