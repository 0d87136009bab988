"""Cutting a film into runs of frames in which most places stand still, as well as it can be done.

```
cosine of every place with the next frame [f-1 n] ──► still [f-1 n] ──► dynamic program ──► [(first, last), …]
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Cut(NamedTuple):
    """A film in windows.

    Attributes:
        windows: first and last frame of each, in order, without gaps.
        saved: tokens that need not be kept when places that stand still in a window are kept once.
    """

    windows: tuple[tuple[int, int], ...]
    saved: int


def gains(still: Bool[Tensor, "steps n"]) -> Int[Tensor, "f f"]:
    """Tokens saved by a window from frame `a` to frame `b`: places that never move there × (b - a)."""
    frames = len(still) + 1
    gain = torch.zeros(frames, frames, dtype=torch.int64)
    for first in range(frames - 1):
        standing = still[first:].cumprod(0).sum(1).cpu()
        gain[first, first + 1 :] = standing * torch.arange(1, frames - first)
    return gain


def best_cut(gain: Int[Tensor, "f f"], longest: int | None = None) -> Cut:
    """The windows that save most together; of equal ones the shorter last window.

    Args:
        gain: of every window, as `gains` gives it.
        longest: frames in a window at most.
    """
    table = gain.tolist()
    frames = len(table)
    longest = frames if longest is None else longest
    best, begins = [0], []  # best[i]: saved in the first i frames
    for last in range(frames):
        most, begin = best[last], last
        for first in range(last - 1, max(last - longest, -1), -1):
            saved = best[first] + table[first][last]
            if saved > most:
                most, begin = saved, first
        best.append(most)
        begins.append(begin)
    windows, last = [], frames - 1
    while last >= 0:
        windows.append((begins[last], last))
        last = begins[last] - 1
    return Cut(tuple(reversed(windows)), best[-1])


def cut_that_leaves(gain: Int[Tensor, "f f"], tokens: int, least: int, longest: int) -> Cut:
    """The best cut with the longest windows that still leaves `least` of all tokens."""
    low, high = 1, min(longest, len(gain))
    found = best_cut(gain, high)
    if tokens - found.saved >= least:
        return found
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens - best_cut(gain, middle).saved >= least else (low, middle)
    return best_cut(gain, low)


def apportion(sizes: Sequence[int], count: int) -> list[int]:
    """Shares of `count` in proportion to `sizes`, by largest remainders; none is above its size."""
    total = sum(sizes)
    kept = [size * count // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda part: -(sizes[part] * count % total))
    for part in order[: count - sum(kept)]:
        kept[part] += 1
    return kept
