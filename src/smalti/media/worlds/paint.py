"""Scenes of small worlds as pixels, masks and boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from smalti.media.worlds.motion import Thing
from smalti.media.worlds.scene import COLOURS, Scene

SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {  # how deep a point lies, in radii
    "circle": lambda x, y: 1 - np.hypot(x, y),
    "square": lambda x, y: 0.85 - np.maximum(np.abs(x), np.abs(y)),
    "triangle": lambda x, y: np.minimum(0.8 - y, (y + 1 - 1.8 * np.abs(x)) / 2.06),
    "diamond": lambda x, y: (1 - np.abs(x) - np.abs(y)) / 2**0.5,
    "ring": lambda x, y: 0.28 - np.abs(np.hypot(x, y) - 0.72),
    "cross": lambda x, y: np.minimum(
        0.95 - np.maximum(np.abs(x), np.abs(y)), 0.32 - np.minimum(np.abs(x), np.abs(y))
    ),
}


@dataclass(frozen=True)
class Clip:
    """A rendered scene.

    Attributes:
        scene: that it shows.
        pixels: RGB in [0, 1].
        masks: what is seen of every thing.
        boxes: left, top, right and bottom (exclusive) of its mask in pixels; zeros where it is not seen.
    """

    scene: Scene
    pixels: Float[Tensor, "3 t h w"]
    masks: Bool[Tensor, "n t h w"]
    boxes: Float[Tensor, "n t 4"]

    @property
    def visible(self) -> Bool[Tensor, "n t"]:
        """Whether anything is seen of every thing."""
        return self.masks.flatten(2).any(2)


def render(scene: Scene) -> Clip:
    """Paint a scene: background, then things from the lowest layer to the highest, with smooth edges."""
    behind = background(scene)
    pixels = np.repeat(behind[:, None], scene.frames, 1)
    masks = np.zeros((len(scene.things), scene.frames, scene.height, scene.width), bool)
    for number in sorted(range(len(scene.things)), key=lambda n: scene.things[n].layer):
        _paint(pixels, masks, scene, number)
    found = torch.from_numpy(masks)
    return Clip(scene, torch.from_numpy(pixels), found, boxes_of(found))


def _paint(pixels: np.ndarray, masks: np.ndarray, scene: Scene, number: int) -> None:
    """One thing into every frame, from a window around its centre."""
    thing = scene.things[number]
    centres = scene.tracks.centres[number]
    reach = int(np.ceil(thing.radius)) + 1
    corners = np.floor(centres).astype(int) - reach
    alphas = _coverage(thing, centres - corners, 2 * reach + 1)
    colour = np.array(COLOURS[thing.colour], np.float32)[:, None, None]
    for frame in np.flatnonzero(scene.tracks.present[number]):
        left, top = (int(side) for side in corners[frame])
        rows = slice(max(top, 0), min(top + 2 * reach + 1, scene.height))
        columns = slice(max(left, 0), min(left + 2 * reach + 1, scene.width))
        alpha = alphas[frame, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if not alpha.size:
            continue
        part = pixels[:, frame, rows, columns]
        part += alpha * (colour - part)
        covered = alpha > 0.5
        masks[:, frame, rows, columns] &= ~covered
        masks[number, frame, rows, columns] = covered


def _coverage(thing: Thing, centres: Float[np.ndarray, "t 2"], side: int) -> Float[np.ndarray, "t side side"]:
    """How much of every pixel of a window a thing covers, its centre given from the window's corner."""
    points = np.arange(side) + 0.5
    x = (points[None, None, :] - centres[:, 0, None, None]) / thing.radius
    y = (points[None, :, None] - centres[:, 1, None, None]) / thing.radius
    depth = SHAPES[thing.kind](*np.broadcast_arrays(x, y))
    return np.clip(depth * thing.radius + 0.5, 0, 1).astype(np.float32)


def background(scene: Scene) -> Float[np.ndarray, "3 h w"]:
    """A dim texture, the same for every frame."""
    rng = np.random.default_rng((scene.seed, 1))
    height, width = scene.height, scene.width
    base, other = rng.uniform(0.1, 0.5, (2, 3, 1, 1)).astype(np.float32)
    share = _pattern(scene.background, height, width, rng)
    grain = rng.uniform(-0.04, 0.04, (1, height, width)).astype(np.float32)
    return np.clip(base + share * (other - base) + grain, 0, 1, dtype=np.float32)


def _pattern(name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A map in [0, 1] that mixes two colours."""
    if name == "noise":
        coarse = torch.from_numpy(rng.random((1, 1, 6, 6), dtype=np.float32))
        return (
            F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0].clamp(0, 1).numpy()
        )
    if name == "plain":
        return np.zeros((1, height, width), np.float32)
    period = rng.uniform(0.12, 0.3) * min(height, width)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    first = np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    if name == "stripes":
        return (0.5 + 0.5 * first)[None].astype(np.float32)
    second = np.sin(2 * np.pi / period * (y * np.cos(angle) - x * np.sin(angle)))
    return (first * second > 0)[None].astype(np.float32)


def boxes_of(masks: Bool[Tensor, "n t h w"]) -> Float[Tensor, "n t 4"]:
    """The least box around every mask; zeros around an empty one."""
    sides = []
    for across in (3, 2):  # columns of a mask, then its rows
        line = masks.any(5 - across)
        first = line.int().argmax(-1)
        last = line.shape[-1] - line.flip(-1).int().argmax(-1)
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    boxes = torch.stack([left, top, right, bottom], -1).float()
    return boxes * masks.flatten(2).any(2)[..., None]
