"""What DPC-kNN costs: `density_peaks` beside the formula written down with `torch.cdist` and loops.

Both cluster the same tokens of 32 frames × 196 places, frame by frame, in turn, and must find the same
centres and groups; "one frame at a time, no loop over tokens" is how published code usually does it. In the
widest tokens both spend their time in the same matrix product. Usage: `python benchmarks/dpc_knn.py`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import tyro
from common import SEED, Target, Timing, interleaved, report, table
from torch import Tensor

from smalti.nn.clustering import density_peaks

FRAMES, PLACES, CENTRES, NEIGHBOURS = 32, 196, 49, 7
WIDTHS = {384: "ViT-S", 896: "Qwen2-0.5B", 3584: "Qwen2-7B"}
Found = tuple[Tensor, Tensor]


def looped(frames: Tensor) -> Found:
    """The formula token by token."""
    found = []
    for tokens in frames:
        distance = torch.cdist(tokens, tokens) / tokens.shape[1] ** 0.5
        density = torch.stack(
            [(-row.topk(NEIGHBOURS, largest=False).values.square().mean()).exp() for row in distance]
        )
        separation = []
        for row, own in zip(distance, density, strict=True):
            denser = row[density > own]
            separation.append(denser.min() if len(denser) else distance.max())
        score = density * torch.stack(separation)
        centres = score.argsort(descending=True, stable=True)[:CENTRES]
        group = torch.stack([row[centres].argmin() for row in distance])
        group[centres] = torch.arange(CENTRES)
        found.append((centres, group))
    return _stacked(found)


def framewise(frames: Tensor) -> Found:
    """Whole matrices, one frame at a time."""
    found = []
    for tokens in frames:
        distance = torch.cdist(tokens, tokens) / tokens.shape[1] ** 0.5
        density = (-distance.topk(NEIGHBOURS, largest=False).values.square().mean(-1)).exp()
        denser = (density > density[:, None]).to(distance)
        separation = (distance * denser + distance.max() * (1 - denser)).amin(-1)
        centres = (density * separation).argsort(descending=True, stable=True)[:CENTRES]
        group = distance[:, centres].argmin(-1)
        group[centres] = torch.arange(CENTRES)
        found.append((centres, group))
    return _stacked(found)


def ours(frames: Tensor) -> Found:
    """All frames at once."""
    return density_peaks(frames, CENTRES, NEIGHBOURS)


CONTESTANTS: dict[str, Callable[[Tensor], Found]] = {
    "density_peaks": ours,
    "cdist and loops": looped,
    "one frame at a time, no loop over tokens": framewise,
}


def main(repeats: int = 5) -> int:
    """Measure, compare, show and save.

    Args:
        repeats: that count, after one that does not.
    """
    began = time.monotonic()
    rows, targets = [], []
    for width, name in WIDTHS.items():
        frames = films(width)
        results = {kind: run(frames) for kind, run in CONTESTANTS.items()}
        agree = {kind: agreement(results["density_peaks"], found) for kind, found in results.items()}
        contestants = {kind: lambda run=run, x=frames: run(x) for kind, run in CONTESTANTS.items()}
        times = {kind: _of_core(timing) for kind, timing in interleaved(contestants, repeats).items()}
        for kind, timing in times.items():
            rows.append(
                {
                    "width": f"{width} ({name})",
                    "how": kind,
                    "films a second": timing.rate(1),
                    "density_peaks is faster": times["density_peaks"].against(timing),
                    "frames with equal output": agree[kind],
                }
            )
        ratio = times["density_peaks"].against(times["cdist and loops"])["median"]
        targets.append(Target(f"times as fast as cdist and loops, width {width}", ratio, 3))
        targets.append(Target(f"frames with equal output, width {width}", agree["cdist and loops"], FRAMES))
    return report(
        "dpc_knn",
        [table("processor time of DPC-kNN on 32 × 196 tokens", rows)],
        {"repeats": repeats, "threads": torch.get_num_threads(), "rows": rows},
        targets,
        data={"frames": FRAMES, "places": PLACES, "centres": CENTRES, "neighbours": NEIGHBOURS},
        began=began,
    )


def films(width: int) -> Tensor:
    """Tokens around a few directions, so that there are clusters to find."""
    random = torch.Generator().manual_seed(SEED)
    kinds = torch.randn(40, width, generator=random)
    member = torch.randint(40, (FRAMES, PLACES), generator=random)
    return kinds[member] + 0.5 * torch.randn(FRAMES, PLACES, width, generator=random)


def agreement(first: Found, second: Found) -> int:
    """Frames whose centres and groups are the same, whatever order the centres are in."""
    same = 0
    for (a, of_a), (b, of_b) in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True):
        same += int(torch.equal(a.sort().values, b.sort().values) and torch.equal(a[of_a], b[of_b]))
    return same


def _of_core(timing: Timing) -> Timing:
    """The same by seconds of the processor, which other work on the machine hardly changes."""
    return Timing(timing.processor, timing.processor)


def _stacked(found: list[Found]) -> Found:
    return torch.stack([centres for centres, _ in found]), torch.stack([group for _, group in found])


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
