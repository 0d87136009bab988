"""How pictures are cut, turned and resized in TokBench; one interpolation everywhere.

```
picture [3 h w] ──► black to a square ──► s × s ──► coder ──► back to the square ──► cut to [3 h w], 8 bits
word's box ──► crop [3 h w] ──► height of the recogniser, grey to the right
five points ──► similarity transform (Umeyama, 1991) ──► aligned face [3 s s]
```
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smalti.evaluation.codecs import Coded
from smalti.evaluation.rate_distortion import Coder
from smalti.evaluation.tokbench_annotations import Box

STILL = 25.0  # frames a second of a picture: none is ever shown


def resized(picture: Float[Tensor, "3 h w"], height: int, width: int) -> Float[Tensor, "3 _h _w"]:
    """Bicubic, with the low-pass that shrinking needs, within [0, 1]."""
    if picture.shape[1:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)


def reconstructed(
    picture: Float[Tensor, "3 h w"], coder: Coder, quality: int, setting: int
) -> tuple[Float[Tensor, "3 h w"], Coded]:
    """A picture as it comes back from a coder that works on squares, at its own size and in 8 bits.

    Args:
        picture: RGB in [0, 1].
        coder: a tokenizer or codec.
        quality: one of the coder's settings.
        setting: pixels a side of the square that the coder is given.
    """
    height, width = picture.shape[1:]
    side = max(height, width)
    square = F.pad(picture, (0, side - width, 0, side - height))
    coded = coder.round_trip(resized(square, setting, setting)[None, :, None], quality, STILL)
    back = resized(coded.pixels[0, :, 0].clamp(0, 1), side, side)[:, :height, :width]
    return back.mul(255).round().div(255), coded


def crop(picture: Float[Tensor, "3 h w"], box: Box) -> Float[Tensor, "3 _h _w"]:
    """The pixels that a box touches."""
    height, width = picture.shape[1:]
    left, top = (max(math.floor(edge), 0) for edge in box[:2])
    right, bottom = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
    return picture[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def similarity_transform(points: Float[Tensor, "k 2"], onto: Float[Tensor, "k 2"]) -> Float[Tensor, "2 3"]:
    """Rotation, scale and shift that bring points nearest to others in least squares, without mirroring."""
    points, onto = points.double(), onto.double()
    mean, mean_onto = points.mean(0), onto.mean(0)
    centred, centred_onto = points - mean, onto - mean_onto
    u, lengths, v = torch.linalg.svd(centred_onto.T @ centred)
    sign = torch.ones(2, dtype=torch.float64)
    if torch.det(u) * torch.det(v) < 0:
        sign[1] = -1
    scale = (lengths * sign).sum() / centred.square().sum()
    turn = scale * (u * sign) @ v
    return torch.cat([turn, (mean_onto - turn @ mean)[:, None]], dim=1)


def aligned(
    picture: Float[Tensor, "3 h w"], points: Float[Tensor, "k 2"], template: Float[Tensor, "k 2"], side: int
) -> Float[Tensor, "3 _side _side"]:
    """A face turned and scaled so that its key points lie on a template's; bilinear, black outside."""
    forward = torch.eye(3, dtype=torch.float64)
    forward[:2] = similarity_transform(points, template)
    back = torch.linalg.inv(forward)[:2]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).double() @ back.T
    size = torch.tensor(picture.shape[:0:-1], dtype=torch.float64)
    grid = ((places + 0.5) / size * 2 - 1).to(picture.dtype)
    return F.grid_sample(picture[None], grid[None], mode="bilinear", align_corners=False)[0]
