"""Boxes in pictures: corners x1 y1 x2 y2 in pixels; features of what is in them; how they overlap.

```
maps [b c h w], boxes [b p 4] ── roi_align ──► [b p c side side]
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

WIDEST = math.log(100000 / 16)  # that a change of width may be, as in Faster R-CNN


def corners(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Centre, width and height → corners."""
    middle, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([middle - size / 2, middle + size / 2], -1)


def shifted(
    boxes: Float[Tensor, "*batch 4"],
    change: Float[Tensor, "*batch 4"],
    weights: Sequence[float] = (2.0, 2.0, 1.0, 1.0),
) -> Float[Tensor, "*batch 4"]:
    """Boxes moved by shares of their size and scaled by exponentials, as R-CNN does (Girshick et al., 2014).

    Args:
        boxes: before.
        change: of x, y, log width and log height, times `weights`.
        weights: that changes are divided by.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    middle = boxes[..., :2] + size / 2
    change = change / change.new_tensor(weights)
    middle = middle + change[..., :2] * size
    size = size * change[..., 2:].clamp(max=WIDEST).exp()
    return torch.cat([middle - size / 2, middle + size / 2], -1)


def extended(
    boxes: Float[Tensor, "b p 4"], share: tuple[float, float], size: Float[Tensor, "b 2"]
) -> Float[Tensor, "b p 4"]:
    """Boxes made wider and higher by a share, half on each side, and clipped to the picture.

    A box counts its last pixel (width = x2 − x1 + 1), and x lies in [0, width − 1].

    Args:
        boxes: before.
        share: of the width and of the height.
        size: width and height of each picture.
    """
    grown = (boxes[..., 2:] - boxes[..., :2] + 1) * boxes.new_tensor(share) / 2
    last = (size - 1)[:, None].repeat(1, 1, 2)
    moved = torch.cat([boxes[..., :2] - grown, boxes[..., 2:] + grown], -1)
    return torch.minimum(moved.clamp(min=0), last)


def roi_align(
    maps: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "b p 4"],
    scale: float,
    side: int = 7,
    samples: int = 2,
) -> Float[Tensor, "b p c side side"]:
    """Features in boxes: means of bilinear samples in each of side² parts, half-pixel aligned (He, 2017).

    Args:
        maps: of features.
        boxes: in pixels of the picture.
        scale: of the maps to the picture.
        side: parts along each axis.
        samples: in each part along each axis.
    """
    height, width = maps.shape[2:]
    boxes = boxes.to(maps.dtype) * scale - 0.5
    steps = (torch.arange(side * samples, device=maps.device, dtype=maps.dtype) + 0.5) / (side * samples)
    x = boxes[..., 0, None] + (boxes[..., 2] - boxes[..., 0])[..., None] * steps
    y = boxes[..., 1, None] + (boxes[..., 3] - boxes[..., 1])[..., None] * steps
    real = ((y >= -1) & (y <= height))[..., :, None] & ((x >= -1) & (x <= width))[..., None, :]
    x = (2 * x + 1) / width - 1
    y = (2 * y + 1) / height - 1
    n = len(steps)
    place = torch.stack([x[..., None, :].expand(-1, -1, n, -1), y[..., None].expand(-1, -1, -1, n)], -1)
    place = rearrange(place, "b p m n two -> b (p m) n two")
    found = F.grid_sample(maps, place, padding_mode="border", align_corners=False)
    found = rearrange(found, "b c (p m) n -> b p c m n", m=n) * real[:, :, None]
    return reduce(found, "b p c (i s) (j r) -> b p c i j", "mean", s=samples, r=samples)


def pyramid_align(
    levels: Sequence[Float[Tensor, "b c _h _w"]],
    boxes: Float[Tensor, "b p 4"],
    scales: Sequence[float],
    side: int = 7,
) -> Float[Tensor, "b p c side side"]:
    """Features in boxes, each from the level that fits its size (Lin, 2017): a box of 224 from 1/16."""
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
    lowest = round(-math.log2(scales[0]))
    level = (4 + (area.sqrt() / 224 + 1e-8).log2()).floor() - lowest
    level = level.clamp(0, len(levels) - 1)[..., None, None, None]
    found = torch.zeros(())
    for number, (maps, scale) in enumerate(zip(levels, scales, strict=True)):
        part = roi_align(maps, boxes, scale, side)
        found = part if number == 0 else torch.where(level == number, part, found)
    return found


def generalised_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Overlap of all pairs over their union, less the share of their hull that neither fills."""
    a, b = a[:, None], b[None]
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    both, hull = inner.clamp(min=0).prod(-1), outer.clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return both / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)
