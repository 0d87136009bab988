"""Rotary positions that turn neighbouring channels (2k, 2k+1) by given angles (Su et al., 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def turn_pairs(
    x: Float[Tensor, "b h n c"], angles: Float[Tensor, "*heads n half"]
) -> Float[Tensor, "b h n c"]:
    """Turn pair k of the token at place n by its angle, in float32.

    Args:
        x: queries or keys.
        angles: half as many as channels; the same for all heads, or with the heads in front.
    """
    even, odd = rearrange(x.float(), "b h n (k two) -> two b h n k", two=2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x.dtype)


def line_angles(
    count: int, channels: int, base: float, device: torch.device | None = None
) -> Float[Tensor, "n half"]:
    """Of places in a row: place · base^(−2k/channels)."""
    waves = base ** (-torch.arange(0, channels, 2, device=device) / channels)
    return torch.arange(count, device=device)[:, None] * waves


def frame_angles(
    rows: int,
    columns: int,
    channels: int,
    base: float,
    order: Literal["halves", "interleaved"],
    device: torch.device | None = None,
) -> Float[Tensor, "n half"]:
    """Of the places of a frame, row by row: column and row, each times base^(−4k/channels).

    Args:
        rows, columns: of the frame.
        channels: of a head, a multiple of four.
        base: of the wavelengths.
        order: all angles by column and then all by row, or one of each in turn.
        device: of the angles.
    """
    waves = base ** (-torch.arange(0, channels, 4, device=device) / channels)
    place = torch.arange(rows * columns, device=device)
    both = torch.stack([place % columns, place // columns], -1)[..., None] * waves
    return rearrange(both, "n two k -> n (two k)" if order == "halves" else "n two k -> n (k two)")
