"""Sparse R-CNN: a few learned boxes that are moved, step by step, to what is there (Sun et al., 2021).

```
pyramid ─┐
boxes [b p 4], features [b p d] ─► StepHead: look into boxes ─► class logits, moved boxes, features ─► …
```
Names of parameters are the official ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn import boxes as geometry

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al., 2017): maps of four sizes, each told what the coarser ones hold.

    Args:
        dim: channels of the maps.
        out: channels of the pyramid.
    """

    def __init__(self, dim: int, out: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(dim, out, 1) for _ in SCALES)
        self.output = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in SCALES)

    def forward(self, maps: Sequence[Float[Tensor, "b d _h _w"]]) -> list[Float[Tensor, "b o _h _w"]]:
        """Maps from fine to coarse, and so the pyramid."""
        above, levels = None, []
        for x, lateral, output in reversed(list(zip(maps, self.lateral, self.output, strict=True))):
            x = lateral(x)
            if above is not None:
                x = x + F.interpolate(above, x.shape[2:], mode="nearest")
            levels.append(output(x))
            above = x
        return levels[::-1]


def _steps(dim: int, count: int) -> nn.ModuleList:
    layers = [m for _ in range(count) for m in (nn.Linear(dim, dim, False), nn.LayerNorm(dim), nn.ReLU())]
    return nn.ModuleList(layers)


def run(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """One layer after the other."""
    for layer in layers:
        x = layer(x)
    return x


class DynamicConv(nn.Module):
    """What is in a box, filtered by two matrices that the box's own feature makes.

    Args:
        dim: channels.
        inner: channels between.
        side: places a side.
    """

    def __init__(self, dim: int, inner: int, side: int) -> None:
        super().__init__()
        self.inner = inner
        self.dynamic_layer = nn.Linear(dim, 2 * dim * inner)
        self.norm1 = nn.LayerNorm(inner)
        self.norm2 = nn.LayerNorm(dim)
        self.out_layer = nn.Linear(dim * side**2, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, features: Float[Tensor, "b p d"], seen: Float[Tensor, "b p s d"]
    ) -> Float[Tensor, "b p d"]:
        """The box's new feature."""
        first, second = self.dynamic_layer(features).chunk(2, -1)
        seen = F.relu(self.norm1(seen @ first.unflatten(-1, (-1, self.inner))))
        seen = F.relu(self.norm2(seen @ second.unflatten(-1, (self.inner, -1))))
        return F.relu(self.norm3(self.out_layer(seen.flatten(2))))


class StepHead(nn.Module):
    """One step: boxes' features talk to each other, look into their boxes, and move them.

    Args:
        dim: channels.
        heads: of the attention among boxes.
        hidden: of the feed-forward layers.
        inner: of the dynamic convolution.
        side: places a side that are seen of a box.
        logits: classes and none of them.
    """

    def __init__(
        self,
        dim: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        inner: int = 64,
        side: int = 7,
        logits: int = 2,
    ) -> None:
        super().__init__()
        self.side = side
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.inst_interact = DynamicConv(dim, inner, side)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.cls_module = _steps(dim, 1)
        self.reg_module = _steps(dim, 3)
        self.class_logits = nn.Linear(dim, logits)
        self.bboxes_delta = nn.Linear(dim, 4)

    def forward(
        self,
        pyramid: Sequence[Float[Tensor, "b d _h _w"]],
        boxes: Float[Tensor, "b p 4"],
        features: Float[Tensor, "b p d"],
    ) -> tuple[Float[Tensor, "b p k"], Float[Tensor, "b p 4"], Float[Tensor, "b p d"]]:
        """Class logits, moved boxes and new features."""
        seen = geometry.pyramid_align(pyramid, boxes, SCALES, self.side).flatten(3).mT
        mixed, _ = self.self_attn(features, features, features, need_weights=False)
        features = self.norm1(features + mixed)
        features = self.norm2(features + self.inst_interact(features, seen))
        features = self.norm3(features + self.linear2(F.relu(self.linear1(features))))
        change = self.bboxes_delta(run(self.reg_module, features))
        return self.class_logits(run(self.cls_module, features)), geometry.shifted(boxes, change), features


class Proposals(nn.Module):
    """The learned boxes and their features, before the first step.

    Args:
        count: of boxes; each begins as the whole picture.
        dim: channels.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(count, dim))
        self.boxes = nn.Parameter(torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(count, 1))

    def forward(self, size: Float[Tensor, "b 2"]) -> tuple[Float[Tensor, "b p 4"], Float[Tensor, "b p d"]]:
        """Corners in pixels for pictures of that width and height, and features."""
        boxes = geometry.corners(self.boxes)[None] * size.repeat(1, 2)[:, None]
        return boxes, self.features.expand(len(size), -1, -1)
