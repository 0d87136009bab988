"""AToken's way from voxels to 3D: every voxel as a handful of Gaussians that a splatting renderer can draw.

```
features [n 768] at (x, y, z) in 64³ ─► linear + sines and cosines ─► blocks in windows of 8³, shifted in
turn ─► norm, linear ─► 32 Gaussians a voxel: offset, colour, scale, rotation, opacity
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.packed_sets import PackedSets
from smalti.nn.sincos_positions import line_positions
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.registry import replace
from smalti.tokenizers.atoken_transformer import VOXELS, SetBlock

PARTS = (3, 3, 3, 4, 1)  # offset, colour, scale, rotation, opacity


@dataclass(frozen=True)
class GaussianDecoderConfig:
    """Attributes:
    resolution: voxels along a side of the world.
    channels: of a voxel's features.
    dim, depth, heads, hidden: of the blocks.
    window: voxels along a side of what attends to itself.
    gaussians: of a voxel.
    reach: how far they may lie, in voxels.
    scale, opacity: that they start with.
    smallest: scale that is added in squares, against Gaussians too small to be seen.
    rotation_rate: that rotations are multiplied with.
    """

    resolution: int = 64
    channels: int = 768
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    window: int = 8
    gaussians: int = 32
    reach: float = 1.5
    scale: float = 4e-3
    opacity: float = 0.1
    smallest: float = 9e-4
    rotation_rate: float = 0.1


class Gaussians(NamedTuple):
    """One object in the cube from -0.5 to 0.5.

    Attributes:
        centres: of the Gaussians.
        colours: of the constant spherical harmonic; red, green and blue are 0.5 + 0.2821 times it.
        scales: standard deviations along their axes.
        rotations: unit quaternions, real part first.
        opacities: in (0, 1).
    """

    centres: Float[Tensor, "g 3"]
    colours: Float[Tensor, "g 3"]
    scales: Float[Tensor, "g 3"]
    rotations: Float[Tensor, "g 4"]
    opacities: Float[Tensor, "g 1"]


class GaussianDecoder(nn.Module):
    """Voxels' features to Gaussians (Lu et al., 2025, arXiv 2509.14476; TRELLIS: Xiang et al., 2024).

    Takes what `AToken.rebuild` gives of voxels: its first `channels` features at the same places.
    """

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: GaussianDecoderConfig = replace(config or GaussianDecoderConfig(), changes)
        config = self.config
        self.enter = nn.Linear(config.channels, config.dim, bias=False)
        self.blocks = nn.ModuleList(
            SetBlock(config.dim, config.heads, config.hidden, VOXELS) for _ in range(config.depth)
        )
        self.leave = nn.Linear(config.dim, config.gaussians * sum(PARTS))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        spread = (2 * hammersley(config.gaussians) - 1) / config.reach
        self.register_buffer("offset_perturbation", spread.atanh())

    def places(self, voxels: Int[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """Sines and cosines of the three axes, and zeros where they leave channels over."""
        each = 2 * (self.config.dim // 6)
        found = torch.cat([line_positions(axis, each) for axis in voxels.unbind(1)], 1)
        return F.pad(found, (0, self.config.dim - found.shape[1]))

    def windows(self, places: Int[Tensor, "n 5"], shift: int) -> tuple[Int[Tensor, "n"], list[int]]:
        """The order that puts windows behind each other, and how many voxels each has."""
        cell = torch.cat([places[:, :1], (places[:, 2:] + shift) // self.config.window], 1)
        number = cell.unique(dim=0, return_inverse=True)[1]
        return number.argsort(stable=True), torch.bincount(number).tolist()

    def forward(self, batch: PackedSets) -> list[Gaussians]:
        """The Gaussians of every set."""
        dtype = self.enter.weight.dtype
        voxels = batch.places[:, 2:]
        x = self.enter(batch.features[:, : self.config.channels].to(dtype)) + self.places(voxels).to(dtype)
        cuts = [self.windows(batch.places, shift) for shift in (0, self.config.window // 2)]
        for number, block in enumerate(self.blocks):
            order, counts = cuts[number % 2]
            x = block(x[order], counts)[order.argsort()]
        found = self.leave(F.layer_norm(x, x.shape[-1:])).float()
        parts = zip(found.split(batch.counts), voxels.split(batch.counts), strict=True)
        return [self._shaped(numbers, places) for numbers, places in parts]

    def _shaped(self, numbers: Float[Tensor, "n o"], voxels: Int[Tensor, "n 3"]) -> Gaussians:
        """Raw numbers as what a renderer takes."""
        config = self.config
        sizes = [config.gaussians * part for part in PARTS]
        offset, colour, scale, turn, opacity = (
            part.unflatten(1, (config.gaussians, -1)) for part in numbers.split(sizes, 1)
        )
        offset = torch.tanh(offset + self.offset_perturbation) * config.reach / 2
        centres = (voxels[:, None] + 0.5 + offset) / config.resolution - 0.5
        start = log(torch.tensor(config.scale).double().expm1().item())  # softplus, undone
        scales = (F.softplus(scale + start).square() + config.smallest**2).sqrt()
        upright = torch.tensor([1.0, 0, 0, 0], device=turn.device)
        turns = F.normalize(turn * config.rotation_rate + upright, dim=-1)
        odds = log(config.opacity / (1 - config.opacity))
        shaped = (centres, colour, scales, turns, torch.sigmoid(opacity + odds))
        return Gaussians(*(part.flatten(0, 1) for part in shaped))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int = 12) -> GaussianDecoder:
        """The decoder of an official checkpoint.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        ours = renamed({k: t for k, t in state.items() if not k.startswith("lpips_loss.")}, RULES)
        dim, channels = told(ours, "enter.weight").shape
        model = cls(
            channels=channels,
            dim=dim,
            depth=len(numbered(ours, r"blocks\.(\d+)\.")),
            heads=heads,
            hidden=told(ours, "blocks.0.mlp.0.weight").shape[0],
            gaussians=len(told(ours, "offset_perturbation")),
        )
        load_strictly(model, ours)
        return model


RULES = (
    (r"^input_layer\.", "enter."),
    (r"^out_layer\.", "leave."),
    (r"\.attn\.to_out", ".attn.proj"),
    (r"\.attn\.to_qkv", ".attn.qkv"),
    (r"\.mlp\.mlp\.", ".mlp."),
)


def hammersley(count: int) -> Float[Tensor, "count 3"]:
    """Points spread over the unit cube: i / count, and i mirrored at the point in base two and three."""

    def mirrored(index: int, base: int) -> float:
        found, part = 0.0, 1.0 / base
        while index:
            index, digit = divmod(index, base)
            found += digit * part
            part /= base
        return found

    return torch.tensor([[i / count, mirrored(i, 2), mirrored(i, 3)] for i in range(count)])
