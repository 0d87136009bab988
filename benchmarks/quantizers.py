"""What quantizers cost beside vector-quantize-pytorch and beside the bare matrix product, one thread.

Contestants run in turn on the same latents; ratios are of processor time, which other work on the machine
hardly changes, repetition by repetition. Peak memory is what a fresh process adds to its resident memory. The
library is a rival, not a dependency: `pip install vector-quantize-pytorch`.
Usage: `python benchmarks/quantizers.py`
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from common import SEED, Target, Timing, interleaved, report, run_python, table
from torch import Tensor
from vector_quantize_pytorch import LFQ as RivalLFQ
from vector_quantize_pytorch import VectorQuantize

from smalti.quantizers import LFQ, VectorQuantizer

LATENTS = 4096
BOOKS = ((1024, 256), (8192, 8), (8192, 64), (8192, 256))
BITS = {14: 1024, 18: 64}  # latents that the rival's distances leave room for
OURS, RIVAL = "smalti", "vector-quantize-pytorch"
PRODUCT, READY = "matrix product", "matrix product into ready memory"
Run = Callable[[], Any]


def main(repeats: int = 3, peak: str | None = None) -> int:
    """Measure, compare, show and save.

    Args:
        repeats: that count, after one that does not.
        peak: print only the peak memory of one contestant, `TASK,SIZE,SIZE,NAME`.
    """
    torch.set_num_threads(1)
    if peak:
        task, first, second, name = peak.split(",")
        print(json.dumps(peak_memory(TASKS[task](int(first), int(second))[name])))
        return 0
    began = time.monotonic()
    targets: list[Target] = []
    memory = memories(targets)
    tables = [codebooks(repeats, targets), binary(repeats, targets)]
    return report(
        "quantizers",
        [table(title, rows) for title, rows in [*tables, memory]],
        {"repeats": repeats, "threads": torch.get_num_threads(), "rival": importlib.metadata.version(RIVAL)}
        | dict([*tables, memory]),
        targets,
        data={"latents": LATENTS, "latents of binary codes": BITS},
        began=began,
    )


def lookups(size: int, dim: int) -> dict[str, Run]:
    """Evaluation: ids and values of latents."""
    z, codes = latents(LATENTS, dim), latents(size, dim)
    ours = VectorQuantizer(codebook_size=size, dim=dim).eval()
    rival = VectorQuantize(dim, size, rotation_trick=False).eval()
    ours.codebook.copy_(codes)
    rival._codebook.embed.data[0] = codes
    ready = torch.empty(LATENTS, size)
    return {
        OURS: without_gradient(lambda: ours(z).ids[:, 0]),
        RIVAL: without_gradient(lambda: rival(z[None])[1][0]),
        PRODUCT: without_gradient(lambda: z @ codes.t()),
        READY: without_gradient(lambda: torch.mm(z, codes.t(), out=ready)),
    }


def steps(size: int, dim: int) -> dict[str, Run]:
    """Training without the backward pass: the same, and the codebook follows the latents."""
    z = latents(LATENTS, dim)
    ours = VectorQuantizer(codebook_size=size, dim=dim).train()
    rival = VectorQuantize(dim, size, rotation_trick=False, decay=0.99, commitment_weight=0.25).train()
    return {
        OURS: without_gradient(lambda: ours(z).ids[:, 0]),
        RIVAL: without_gradient(lambda: rival(z[None])[1][0]),
    }


def entropies(bits: int, count: int) -> dict[str, Run]:
    """A training step of binary codes with both entropies, forwards and backwards."""
    z = (0.01 * latents(count, bits)).requires_grad_()
    ours = LFQ(bits=bits, group_bits=bits, commitment=0.0).train()
    rival = RivalLFQ(codebook_size=2**bits, dim=bits, entropy_loss_weight=0.1).train()

    def step(loss: Callable[[], Tensor]) -> Tensor:
        z.grad = None
        found = loss()
        found.backward()
        return found.detach()

    return {
        OURS: lambda: step(lambda: ours(z).loss),
        RIVAL: lambda: step(lambda: rival(z[None]).entropy_aux_loss),
    }


TASKS = {"lookup": lookups, "EMA step": steps, "entropy step": entropies}


def codebooks(repeats: int, targets: list[Target]) -> tuple[str, list[dict[str, Any]]]:
    """Lookups and EMA steps of codebooks."""
    rows = []
    for size, dim in BOOKS:
        looking, stepping = lookups(size, dim), steps(size, dim)
        equal = int((looking[OURS]() == looking[RIVAL]()).sum())
        times = timed({("lookup", name): run for name, run in looking.items()}
                      | {("step", name): run for name, run in stepping.items()}, repeats)  # fmt: skip
        ours, step = times["lookup", OURS], times["step", OURS]
        row = {
            "codes × channels": f"{size} × {dim}",
            "lookup, ms": milliseconds(ours),
            "times the product": ratio(ours, times["lookup", PRODUCT]),
            "times the product into ready memory": ratio(ours, times["lookup", READY]),
            "lookup is faster": ratio(times["lookup", RIVAL], ours),
            "EMA step in lookups": ratio(step, ours),
            "EMA step is faster": ratio(times["step", RIVAL], step),
            "equal ids": equal,
        }
        rows.append(row)
        name = f"K {size}, D {dim}"
        if size >= 8192:
            targets.append(Target(f"lookup, times as fast, {name}", row["lookup is faster"]["median"], 3))
        if dim >= 64:
            for kind in ("times the product", "times the product into ready memory"):
                targets.append(Target(f"lookup, {kind}, {name}", row[kind]["median"], 1.15, False))
        targets.append(
            Target(f"EMA step in lookups, {name}", row["EMA step in lookups"]["median"], 1.3, False)
        )
    return f"processor time for {LATENTS} latents", rows


def binary(repeats: int, targets: list[Target]) -> tuple[str, list[dict[str, Any]]]:
    """Training steps of binary codes."""
    rows = []
    for bits, count in BITS.items():
        contestants = entropies(bits, count)
        losses = {name: float(run()) for name, run in contestants.items()}
        times = timed(contestants, repeats)
        faster = ratio(times[RIVAL], times[OURS])
        rows.append(
            {
                "codes": f"2^{bits}",
                "latents": count,
                "step, ms": milliseconds(times[OURS]),
                "faster": faster,
                "loss": f"{losses[OURS]:.5f}",
                "loss of the rival": f"{losses[RIVAL]:.5f}",
            }
        )
        targets.append(Target(f"entropy step, times as fast, 2^{bits}", faster["median"], 50))
    return "processor time of a training step with entropy", rows


def memories(targets: list[Target]) -> tuple[str, list[dict[str, Any]]]:
    """Peak memory of every task, each contestant in a process of its own."""
    rows = []
    tasks = [(task, 8192, 64) for task in ("lookup", "EMA step")]
    tasks += [("entropy step", bits, count) for bits, count in BITS.items()]
    for task, first, second in tasks:
        peaks = {
            name: json.loads(run_python(__file__, "--peak", f"{task},{first},{second},{name}"))
            for name in (OURS, RIVAL)
        }
        share = peaks[OURS] / peaks[RIVAL]
        rows.append(
            {"task": f"{task}, {first}, {second}"}
            | {f"{name}, MiB": f"{value / 2**20:.1f}" for name, value in peaks.items()}
            | {"share": f"{share:.3f}"}
        )
        targets.append(Target(f"peak memory of {task}, {first}, {second}", share, 0.25, False))
    return "peak memory", rows


def peak_memory(run: Run) -> int:
    """Bytes that a run adds to the resident memory of this process at its largest (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = _high_water()
    run()
    return _high_water() - before


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(contestants: dict[Any, Run], repeats: int) -> dict[Any, Timing]:
    """Processor time of every contestant."""
    found = interleaved(contestants, repeats)
    return {name: Timing(timing.processor, timing.processor) for name, timing in found.items()}


def milliseconds(timing: Timing) -> str:
    return f"{1e3 * sorted(timing.processor)[len(timing.processor) // 2]:.4g}"


def ratio(one: Timing, other: Timing) -> dict[str, float]:
    """How many times as long as another."""
    return other.against(one)


def latents(count: int, dim: int) -> Tensor:
    random = torch.Generator().manual_seed(SEED + count + dim)
    return torch.randn(count, dim, generator=random) / math.sqrt(dim)


def without_gradient(run: Run) -> Run:
    return torch.no_grad()(run)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
