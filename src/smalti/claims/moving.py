"""Rendered clips for several claims: shapes of one colour that move before a photograph or clutter.

```
backgrounds [b 3 s s] ─► repeat in time ─► paint(shape, colour, centres [b t 2], radius) ─► clip [b 3 t s s]
                                                └── as often as there are actors
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti import media
from smalti.evaluation.held_out import held_out

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.8, 0.2),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.9, 0.1),
    "violet": (0.7, 0.1, 0.85),
    "white": (0.95, 0.95, 0.95),
}
PHOTO = 96  # pixels a side that photographs are cut from


def palette() -> Float[Tensor, "colours 3"]:
    """The colours, in their order."""
    return torch.tensor(list(COLOURS.values()))


def photographs(count: int) -> Float[Tensor, "n 3 96 96"]:
    """Photographs of the assembled corpus, small.

    Raises:
        ConfigError: the corpus is not assembled on this machine.
    """
    paths = held_out("photos")[:count]
    return torch.stack(
        [media.read(path, size=(PHOTO, PHOTO), progress=False).pixels[0, :, 0] for path in paths]
    )


def clutter(count: int, seed: int) -> Float[Tensor, "n 3 96 96"]:
    """Smooth colour noise in place of photographs."""
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (PHOTO, PHOTO), mode="bilinear", align_corners=False)


def backgrounds(
    pictures: Float[Tensor, "n 3 h w"], count: int, side: int, generator: torch.Generator
) -> Float[Tensor, "b 3 s s"]:
    """Random cuts of `side` pixels, half as bright, some of them mirrored."""
    room = pictures.shape[-1] - side + 1
    chosen = torch.randint(len(pictures), (count,), generator=generator).tolist()
    corner = torch.randint(room, (count, 2), generator=generator).tolist()
    cuts = [pictures[n, :, y : y + side, x : x + side] for n, (y, x) in zip(chosen, corner, strict=True)]
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    stacked = torch.stack(cuts)
    return 0.2 + 0.5 * torch.where(mirrored, stacked.flip(-1), stacked)


def paint(
    clip: Float[Tensor, "b 3 t s s"],
    shape: Int[Tensor, "b"],
    colour: Float[Tensor, "b 3"],
    centre: Float[Tensor, "b t 2"],
    radius: Float[Tensor, "b"],
) -> Float[Tensor, "b 3 t s s"]:
    """Put one shape into every frame.

    Args:
        clip: what is behind.
        shape: number in `SHAPES`.
        colour: RGB.
        centre: x and y in pixels.
        radius: in pixels; half the side of a square's box.
    """
    place = torch.arange(clip.shape[-1]) + 0.5
    x = (place - centre[..., :1])[:, :, None, :] / radius[:, None, None, None]
    y = (place - centre[..., 1:])[:, :, :, None] / radius[:, None, None, None]
    depth = torch.stack(
        [
            1 - (x.square() + y.square()).sqrt(),
            0.9 - torch.maximum(x.abs(), y.abs()),
            torch.minimum((0.9 - y).expand_as(x + y), (y + 1 - 1.9 * x.abs()) / 2),
        ],
        1,
    )
    own = depth[torch.arange(len(clip)), shape]
    alpha = (own * radius[:, None, None, None] + 0.5).clamp(0, 1)[:, None]
    return clip * (1 - alpha) + colour[:, :, None, None, None] * alpha


def straight(start: Float[Tensor, "b 2"], step: Float[Tensor, "b 2"], frames: int) -> Float[Tensor, "b t 2"]:
    """Centres that move by `step` pixels a frame."""
    return start[:, None] + torch.arange(frames)[None, :, None] * step[:, None]
