"""Residual quantization over growing grids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.code_gradients import pass_gradient
from smalti.quantizers.base import (
    Float32Quantizer,
    Quantized,
    QuantizerConfig,
    check_codes,
    codebook_stats,
    mean_square,
    refuse_infinite,
)
from smalti.quantizers.dual import DualConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Official, Paper, replace, system

Grid = tuple[int, ...]
UP = {1: "linear", 2: "bicubic", 3: "trilinear"}
CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def squares(*sides: int) -> tuple[Grid, ...]:
    """Square grids of these sides."""
    return tuple((side, side) for side in sides)


@dataclass(frozen=True)
class MultiscaleConfig:
    """Attributes:
    of: the quantizer that all scales share.
    scales: grids from coarse to fine, of one, two or three axes; the last is that of the latents.
    smooth: share of a learnt 3-wide convolution in every enlarged map; 0 has none.
    """

    of: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    scales: tuple[Grid, ...] = squares(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    smooth: float = 0.0


TOKENFLOW = squares(1, 2, 4, 6, 8, 10, 12, 14)


@system(
    "multiscale",
    room="quantizers",
    paper=Paper("Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction", 2024,
                "https://arxiv.org/abs/2404.02905"),
    official=Official("FoundationVision/VAR", "MIT"),
    presets={
        "var": MultiscaleConfig(VectorQuantizerConfig(4096, 32, learn="gradient"), smooth=0.5),
        "tokenflow-b": MultiscaleConfig(DualConfig(), TOKENFLOW),
        "tokenflow-l": MultiscaleConfig(DualConfig(), TOKENFLOW + squares(16)),
        "vat": MultiscaleConfig(VectorQuantizerConfig(16384, 32, normalize=True),
                                tuple((2**n,) for n in range(9)), smooth=0.5),
    },
    tags=("composed", "ordered"),
)  # fmt: skip
class Multiscale(Float32Quantizer):
    """A map coded coarse to fine, each scale coding what is left (VAR: Tian et al., 2024, arXiv 2404.02905).

    ```
    z [b *grid d] ─► rest ─► area-shrunk to scale k ─► codes ─► enlarged ─► (convolution) ─┬─► Σ = values
                      ▲───────────────────────────── - ◄──────────────────────────────────┘
    ids [b n q]: scale by scale, each in row-major order; n = Σ places of the scales
    ```
    Any first scales decode. Enlarging is bicubic for pictures, linear for sequences and volumes. Loss: mean
    over scales of the quantizer's, and with convolutions of |Σ so far - sg(z)|², which trains them. The
    gradient passes to z once, for the sum.

    Raises:
        ConfigError: scales of other counts of axes, that shrink, or another grid in `forward`.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: codes that end inside a scale, or a code outside its codebook, in `lookup`.
    """

    def __init__(self, config: MultiscaleConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: MultiscaleConfig = replace(config or MultiscaleConfig(), changes)
        config = self.config
        self.grid = config.scales[-1] if config.scales else ()
        axes = len(self.grid)
        fits = all(
            len(scale) == axes and all(1 <= a <= b for a, b in zip(scale, self.grid, strict=True))
            for scale in config.scales
        )
        if axes not in UP or not fits:
            raise ConfigError(f"scales {config.scales} must have 1 to 3 axes each and none above the last")
        self.quantizer = config.of.build()
        self.dim, self.codebook_sizes = self.quantizer.dim, self.quantizer.codebook_sizes
        self.places = [math.prod(scale) for scale in config.scales]
        count = len(config.scales) if config.smooth else 0
        self.convolutions = nn.ModuleList(
            [CONVOLUTION[axes](self.dim, self.dim, 3, padding=1) for _ in range(count)]
        )

    def forward(self, z: Float[Tensor, "b *grid d"]) -> Quantized:
        """All scales."""
        if tuple(z.shape[1:-1]) != self.grid or z.shape[-1] != self.dim:
            raise ConfigError(
                f"latents are {tuple(z.shape)}, but the last scale is {self.grid} with {self.dim} channels"
            )
        refuse_infinite(z)
        with torch.autocast(z.device.type, enabled=False):
            whole = z.float().movedim(-1, 1)
            total, ids, losses = torch.zeros_like(whole), [], []
            for number, scale in enumerate(self.config.scales):
                rest = F.interpolate(whole - total.detach(), scale, mode="area")
                found = self.quantizer.quantize(rest.movedim(1, -1).reshape(-1, self.dim))
                codes = found.values.detach().view(len(z), *scale, self.dim).movedim(-1, 1)
                total = total.detach() + self._enlarge(codes, number)
                ids.append(found.ids.view(len(z), -1, len(self.codebook_sizes)))
                losses.append(found.loss)
                if self.config.smooth:
                    losses[-1] = losses[-1] + mean_square(total, whole.detach())
            values = pass_gradient(whole, total).movedim(1, -1)
        codes = torch.cat(ids, 1)
        return Quantized(
            values, codes, torch.stack(losses).mean(), codebook_stats(codes, self.codebook_sizes)
        )

    def lookup(self, ids: Int[Tensor, "b n q"]) -> Float[Tensor, "b *grid d"]:
        """The map of the first scales' codes."""
        check_codes(ids, self.codebook_sizes)
        ends = [sum(self.places[: k + 1]) for k in range(len(self.places))]
        if ids.shape[1] not in ends:
            raise FormatError(f"{ids.shape[1]} codes end inside a scale: choose one of {ends}")
        total = ids.new_zeros((len(ids), self.dim, *self.grid), dtype=torch.float32)
        parts = ids.split(self.places[: ends.index(ids.shape[1]) + 1], 1)
        for number, (part, scale) in enumerate(zip(parts, self.config.scales, strict=False)):
            codes = self.quantizer.lookup(part).view(len(ids), *scale, self.dim)
            total = total + self._enlarge(codes.movedim(-1, 1), number)
        return total.movedim(1, -1)

    def _enlarge(self, codes: Tensor, number: int) -> Tensor:
        if codes.shape[2:] != self.grid:
            codes = F.interpolate(codes, self.grid, mode=UP[len(self.grid)])
        if self.config.smooth:
            share = self.config.smooth
            codes = (1 - share) * codes + share * self.convolutions[number](codes)
        return codes
