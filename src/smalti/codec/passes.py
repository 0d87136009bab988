"""The order in which the context model codes a frame: few strong channels first, on a checkerboard.

```
channels 0 … n/6 at one colour ─► at the other ─► channels … n/2 at one colour ─► at the other ─► the rest
```
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def channel_groups(count: int) -> list[range]:
    """Channels of a stage in the order in which they are coded: few strong ones first."""
    bounds = (0, max(1, count // 6), min(max(2, count // 2), count), count)
    return [range(a, b) for a, b in pairwise(bounds)]


def checkerboard(height: int, width: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Rows and columns of the positions of either colour."""
    colour = (np.arange(height)[:, None] + np.arange(width)) % 2
    return tuple(np.nonzero(colour == c) for c in (0, 1))  # pyright: ignore[reportReturnType]


def coding_passes(count: int) -> list[tuple[range, int]]:
    """Channels and colour of every pass over `count` open channels."""
    return [(channels, colour) for channels in channel_groups(count) for colour in (0, 1)]
