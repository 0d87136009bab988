"""Which patches became one token, drawn over the picture or the frames of a clip.

```
┌──┬──┬──┐   patches that became one token    their mean colour, outlined
│  ████▒▒│   a patch that stayed by itself    as it is
│  ████▒▒│   a patch that was dropped         darkened
└──┴──┴──┘
```
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL.Image import Image, fromarray

from smalti.errors import ConfigError
from smalti.reducers.reduction import Reduction

DARKENED = 0.25
OUTLINE = (255, 255, 255)


def overlay(image: Image, reduction: Reduction, grid: tuple[int, ...], sample: int = 0) -> Image:
    """A picture with its tokens drawn on it, as large as it was.

    Args:
        image: all of what the model saw, at any size.
        reduction: such as `handle.reduction` after a forward; tokens in front of the patches are passed over.
        grid: rows and columns of patches, or (1, rows, columns).
        sample: which of the batch.

    Raises:
        ConfigError: a grid of more than one frame, or one that the reduction does not fit; no such sample.
    """
    if len(grid) == 3 and grid[0] != 1:
        raise ConfigError(f"one picture has a grid of one frame, not of {grid[0]}: use overlay_frames")
    return overlay_frames([image], reduction, (1, *grid[-2:]), sample)[0]


def overlay_frames(
    frames: Sequence[Image], reduction: Reduction, grid: tuple[int, int, int], sample: int = 0
) -> list[Image]:
    """Frames of a clip with its tokens drawn on them; a token over several frames has one colour in all.

    Args:
        frames: all that the model saw, of one size; as many as, or a multiple of, the grid's.
        reduction: as for `overlay`.
        grid: frames, rows and columns of patches.
        sample: which of the batch.

    Raises:
        ConfigError: frames, grid and reduction do not fit each other; no such sample.
    """
    pixels = np.stack([np.asarray(frame.convert("RGB"), np.uint8) for frame in frames])
    tokens = _tokens(reduction, grid, sample)
    t, h, w = grid
    if len(frames) % t:
        raise ConfigError(f"{len(frames)} frames cannot be shared out over a grid of {t}")
    places = [
        np.arange(size) * cells // size for size, cells in zip(pixels.shape[:3], (t, h, w), strict=True)
    ]
    where = tokens.reshape(grid)[np.ix_(*places)]
    patches = np.bincount(tokens[tokens >= 0], minlength=reduction.count)
    shared = (where >= 0) & (patches[where] > 1)
    drawn = pixels.copy()
    drawn[where < 0] = (drawn[where < 0] * DARKENED).astype(np.uint8)
    drawn[shared] = _means(pixels, where, reduction.count)[where[shared]]
    drawn[_edges(where, shared)] = OUTLINE
    return [fromarray(frame) for frame in drawn]


def _tokens(reduction: Reduction, grid: tuple[int, int, int], sample: int) -> np.ndarray:
    """The token of every patch, -1 for dropped ones."""
    patches = int(np.prod(grid))
    whole = reduction.source_map
    if patches > reduction.size:
        raise ConfigError(
            f"a grid of {'×'.join(map(str, grid))} has more patches than the {reduction.size} tokens"
        )
    if not 0 <= sample < len(whole):
        raise ConfigError(f"no sample {sample} in a batch of {len(whole)}")
    return whole[sample, reduction.size - patches :].cpu().numpy()


def _means(pixels: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """The mean colour of every token's pixels; row -1 is for those of none."""
    index = where.ravel() % (count + 1)  # -1 becomes the last
    number = np.maximum(np.bincount(index, minlength=count + 1), 1)
    sums = [np.bincount(index, channel.ravel(), count + 1) for channel in np.moveaxis(pixels, -1, 0)]
    return np.rint(np.stack(sums, -1) / number[:, None]).astype(np.uint8)


def _edges(where: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Pixels at the right and lower border of tokens, wherever one of several patches touches another."""
    edges = np.zeros(where.shape, bool)
    for axis in (1, 2):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        edges[before] |= (where[before] != where[after]) & (shared[before] | shared[after])
    return edges
