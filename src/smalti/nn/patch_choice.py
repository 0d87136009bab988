"""Which patches of a frame are kept, before anything has looked at them.

```
random   drawn          uniform  evenly over the raster
centre   nearest to it  motion   that differ most from another frame
```
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError, nearest

Choice = Literal["random", "uniform", "centre", "motion"]
CHOICES = ("random", "uniform", "centre", "motion")


def patch_motion(
    frames: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"], patch: int
) -> Float[Tensor, "n p"]:
    """Mean absolute difference of every patch from the same one of another frame, in float32."""
    away = (frames.float() - others.float()).abs()
    return reduce(away, "n c (y p) (x q) -> n (y x)", "mean", p=patch, q=patch)


def choose_patches(
    choice: str,
    frames: int,
    grid: tuple[int, int],
    count: int,
    *,
    motion: Float[Tensor, "n p"] | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
) -> Int[Tensor, "n m"]:
    """Numbers of the kept patches in raster order, `count` of every frame.

    Args:
        choice: how they are chosen.
        frames: how many.
        grid: rows and columns of patches.
        count: of patches to keep.
        motion: of every patch, for the choice of that name.
        seed: of one draw for all frames; without it every frame is drawn for itself.
        device: of the result; that of `motion` for the choice of that name.

    Raises:
        ConfigError: no such choice, no motion, or more patches than there are.
    """
    if choice not in CHOICES:
        raise ConfigError(f"no choice {choice!r} of patches: {nearest(choice, CHOICES)}")
    rows, columns = grid
    patches = rows * columns
    if not 0 <= count <= patches:
        raise ConfigError(f"{count} patches cannot be kept of {rows} × {columns}")
    if choice == "uniform":
        kept = ((torch.arange(count, device=device) + 0.5) * (patches / max(count, 1))).long()
        return kept.expand(frames, -1)
    if choice == "centre":
        y = (torch.arange(rows, device=device) + 0.5) / rows - 0.5
        x = (torch.arange(columns, device=device) + 0.5) / columns - 0.5
        scores = -(y[:, None].square() + x.square()).flatten().expand(frames, -1)
    elif choice == "random" and seed is not None:
        drawn = torch.rand(patches, generator=torch.Generator().manual_seed(seed))
        scores = drawn.to(device).expand(frames, -1)
    elif choice == "random":
        scores = torch.rand(frames, patches, device=device)
    elif motion is None:
        raise ConfigError("a choice by motion needs the motion of every patch")
    else:
        scores = motion
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :count].sort(-1).values
