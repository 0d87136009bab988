"""Pixels ⇄ patches, in space and time."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def fold_time(frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b tc h w"]:
    """Frames side by side as channels, time first."""
    return rearrange(frames, "b c t h w -> b (t c) h w")


def unfold_time(maps: Float[Tensor, "b tc h w"], frames: int) -> Float[Tensor, "b c t h w"]:
    """Undo `fold_time`."""
    return rearrange(maps, "b (t c) h w -> b c t h w", t=frames)


def space_to_depth(maps: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b cpp hp wp"]:
    """Square patches as channels; height and width must be multiples of `side`."""
    return rearrange(maps, "b c (h p) (w q) -> b (c p q) h w", p=side, q=side)


def depth_to_space(maps: Float[Tensor, "b cpp h w"], side: int) -> Float[Tensor, "b c hp wp"]:
    """Undo `space_to_depth`."""
    return rearrange(maps, "b (c p q) h w -> b c (h p) (w q)", p=side, q=side)


def cosine_basis(size: int) -> Float[Tensor, "size size"]:
    """Rows of the orthonormal discrete cosine transform, lowest frequency first."""
    frequency, position = torch.arange(size)[:, None], torch.arange(size)[None] + 0.5
    basis = torch.cos(math.pi / size * frequency * position) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def reflect_to_multiple(
    frames: Float[Tensor, "*batch h w"], sides: int | tuple[int, int]
) -> Float[Tensor, "*batch hp wp"]:
    """Continue rows and columns in mirror image up to a multiple of a side; works from 1×1 on."""
    for axis, side in zip((-2, -1), (sides, sides) if isinstance(sides, int) else sides, strict=True):
        size = frames.shape[axis]
        if size % side:
            index = torch.arange(-(-size // side) * side, device=frames.device)
            period = max(2 * size - 2, 1)
            index = index % period
            frames = frames.index_select(axis, torch.where(index < size, index, period - index))
    return frames
