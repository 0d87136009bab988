"""How ViTok's tokens know their places: tables that are added, and angles that turn queries and keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.rotary_pairs import frame_angles, line_angles
from smalti.nn.spread_positions import spread_positions

Grid = tuple[int, int, int]
Rotary = Literal["none", "1d_axial", "2d_axial", "2d_mixed"]
Positions = Literal["nope", "sincos1d", "sincos2d", "sincos3d", "learned", "dec"]

FIXED: dict[Positions, int] = {"sincos1d": 1, "sincos2d": 2, "sincos3d": 3}  # axes of the tables of waves
LEARNED = ("learned", "dec")


def fixed_table(
    name: Positions, grid: Grid, width: int, device: torch.device | None = None
) -> Float[Tensor, "n d"]:
    """Waves of every place of a grid: of its number; of its column and row; of frame, column and row."""
    number = torch.arange(math.prod(grid), device=device)
    frame, column, row = (
        number // (grid[1] * grid[2]),
        number % grid[2],
        number // grid[2] % grid[1],
    )
    places = {1: [number], 2: [column, row], 3: [frame, column, row]}[FIXED[name]]
    return spread_positions(torch.stack(places, 1), width)


def positions_of(state: Mapping[str, Tensor], grid: Grid | None, width: int) -> tuple[Positions, Grid]:
    """Which positions a checkpoint has, and their grid: fixed waves are known by their values.

    Raises:
        ConfigError: a table of another size than the grid.
    """
    table = state.get("dec_posemb")
    if table is None:
        return "nope", grid or (1, 16, 16)
    side = round(table.shape[1] ** 0.5)
    grid = grid or (1, side, side)
    if grid[0] * grid[1] * grid[2] != table.shape[1]:
        raise ConfigError(
            f"a table of {table.shape[1]} positions does not fit the grid {grid}: name its grid"
        )
    if "posemb" not in state:
        return "dec", grid
    for name, axes in FIXED.items():
        if width % (2 * axes) == 0 and torch.allclose(fixed_table(name, grid, width), table[0], atol=1e-5):
            return name, grid
    return "learned", grid


class PlaceTable(nn.Module):
    """Positions that are added to tokens, on a grid of any size.

    Args:
        positions: `nope` adds none; fixed waves; else a learned table.
        width: channels.
        grid: that a learned table is made for.
    """

    def __init__(self, positions: Positions, width: int, grid: Grid) -> None:
        super().__init__()
        self.positions, self.grid = positions, grid
        if positions in LEARNED:
            self.table = nn.Parameter(0.025 * torch.randn(1, math.prod(grid), width))

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b n d"]:
        """Tokens with their positions; a learned table is resampled where the grid is another."""
        if self.positions == "nope":
            return x
        if self.positions in FIXED:
            return x + fixed_table(self.positions, grid, x.shape[2], x.device).to(x.dtype)
        if grid == self.grid:
            return x + self.table
        t, h, _ = self.grid
        volume = rearrange(self.table, "1 (t h w) d -> 1 d t h w", t=t, h=h)
        return x + rearrange(F.interpolate(volume, grid, mode="trilinear"), "1 d t h w -> 1 (t h w) d")


class Turns(nn.Module):
    """Angles of every block by which queries and keys turn.

    Args:
        rotary: as `ViTokConfig` says.
        base: of the wavelengths.
        channels: of a head.
        heads: of the attention.
        depth: blocks; `2d_mixed` learns directions of its own for each.
    """

    def __init__(self, rotary: Rotary, base: float, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.rotary, self.base, self.channels, self.heads, self.depth = rotary, base, channels, heads, depth
        if rotary == "2d_mixed":
            self.directions = nn.Parameter(_random_directions(base, channels, heads, depth))

    def forward(self, grid: Grid, device: torch.device | None = None) -> list[Tensor | None]:
        """For places counted frame by frame, row by row."""
        frames, rows, columns = grid
        if self.rotary == "none":
            return [None] * self.depth
        if self.rotary == "1d_axial":
            return [line_angles(math.prod(grid), self.channels, self.base, device)] * self.depth
        if self.rotary == "2d_axial":
            angles = frame_angles(rows, columns, self.channels, self.base, "halves", device)
            return [angles.repeat(frames, 1)] * self.depth
        number = torch.arange(rows * columns, device=device).repeat(frames)
        places = torch.stack([number % columns, number // columns]).float()
        angles = torch.einsum("an,alk->lnk", places, self.directions.float())
        return list(rearrange(angles, "l n (h k) -> l h n k", h=self.heads))


def _random_directions(base: float, channels: int, heads: int, depth: int) -> Float[Tensor, "two depth hk"]:
    """Two perpendicular directions a wavelength, turned at random for every head (Heo et al., 2024)."""
    waves = base ** (-torch.arange(0, channels, 4) / channels)
    angle = 2 * math.pi * torch.rand(depth, heads, 1)
    both = torch.cat([angle.expand(-1, -1, len(waves)), angle.expand(-1, -1, len(waves)) + math.pi / 2], -1)
    return (torch.stack([both.cos(), both.sin()]) * waves.repeat(2)).flatten(2)
