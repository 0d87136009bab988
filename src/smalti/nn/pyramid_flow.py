"""Optical flow from a pyramid of scales (SPyNet), and warping by it.

```
reference, support [b 3 h w] ─► normalise ─► 6 scales, coarse first ─► warp support by the flow so far,
                                                                       add what a small network corrects
flow [b 2 h w]: where every pixel of the reference lies in the support, as (x, y) offsets in pixels
```
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 6
CHANNELS = (8, 32, 64, 32, 16, 2)
COARSEST = 2 ** (LEVELS - 1)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def flow_warp(x: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """A map read, bilinearly, at every pixel's place plus its flow; outside it its border goes on.

    Places are computed in float32 whatever the map's type.
    """
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device) + flow[:, 0].float()
    rows = torch.arange(height, device=x.device)[:, None] + flow[:, 1].float()
    places = torch.stack([columns * 2 / max(width - 1, 1) - 1, rows * 2 / max(height - 1, 1) - 1], -1)
    return F.grid_sample(x.float(), places, padding_mode="border", align_corners=True).to(x.dtype)


def _correction() -> nn.Sequential:
    """What one scale adds to the flow, from the reference, the warped support and the flow so far."""
    layers = nn.Sequential()
    for source, target in itertools.pairwise(CHANNELS):
        layers += nn.Sequential(nn.Conv2d(source, target, 7, padding=3), nn.ReLU())
    return layers[:-1]


class SPyNet(nn.Module):
    """SPyNet (Ranjan and Black, 2017) with six scales: flow from one picture to another, of any size.

    Sides that 32 does not divide are stretched to the next that it does, and the flow back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_correction() for _ in range(LEVELS))

    def forward(
        self, reference: Float[Tensor, "b 3 h w"], support: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 2 h w"]:
        """Flow between pictures in [0, 1]."""
        height, width = reference.shape[-2:]
        rows, columns = (-(-side // COARSEST) * COARSEST for side in (height, width))
        flow = self._estimate(_stretched(reference, rows, columns), _stretched(support, rows, columns))
        shrunk = flow.new_tensor([width / columns, height / rows]).view(2, 1, 1)
        return _stretched(flow, height, width) * shrunk

    def _estimate(
        self, reference: Float[Tensor, "b 3 h w"], support: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 2 h w"]:
        references, supports = _pyramid(reference), _pyramid(support)
        flow = torch.zeros_like(references[0][:, :2])
        corrections = cast("Iterable[nn.Sequential]", self.levels)
        for level, (correct, near, far) in enumerate(zip(corrections, references, supports, strict=True)):
            if level:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = flow + correct(torch.cat([near, flow_warp(far, flow), flow], 1))
        return flow


def _stretched(maps: Float[Tensor, "b c _h _w"], height: int, width: int) -> Tensor:
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def _pyramid(picture: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
    """A normalised picture at every scale, coarse first."""
    mean, deviation = (picture.new_tensor(x).view(3, 1, 1) for x in (MEAN, DEVIATION))
    scales = [(picture - mean) / deviation]
    for _ in range(LEVELS - 1):
        scales.append(F.avg_pool2d(scales[-1], 2))
    return scales[::-1]
