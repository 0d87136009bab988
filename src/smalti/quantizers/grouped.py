"""Factorized quantization: every group of channels has a codebook of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class GroupedConfig(QuantizerConfig):
    """Attributes:
    of: the quantizer of a group.
    groups: how many.
    disentangle: weight of the squared cosine between every two groups' values.
    """

    of: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    groups: int = 2
    disentangle: float = 0.0

    def build(self) -> Grouped:
        """A quantizer of this configuration."""
        return Grouped(self)


FQGAN = VectorQuantizerConfig(16384, 8, learn="gradient", normalize=True, entropy=0.03)


@system(
    "grouped",
    room="quantizers",
    paper=Paper("Factorized Visual Tokenization and Generation", 2024, "https://arxiv.org/abs/2411.16681"),
    official=Official("showlab/FQGAN", "CC-BY-NC-4.0"),
    presets={
        "fqgan-dual": GroupedConfig(FQGAN, 2, 0.1),
        "fqgan-triple": GroupedConfig(FQGAN, 3, 0.1),
        "product": GroupedConfig(),
    },
    tags=("composed",),
)
class Grouped(VectorwiseQuantizer):
    """Groups of channels quantized apart, and kept apart (FQGAN: Bai et al., 2024, arXiv 2411.16681).

    ```
    z [n g·d] ──► g groups of d channels ──► a quantizer each ──► values [n g·d], ids [n g]
    ```
    Loss: the groups' losses added up, and disentangle · the squared cosine of two groups' values, mean over
    positions and pairs of groups.

    Raises:
        ConfigError: no group.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside its codebook in `lookup`.
    """

    def __init__(self, config: GroupedConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: GroupedConfig = replace(config or GroupedConfig(), changes)
        config = self.config
        if config.groups < 1:
            raise ConfigError(f"a grouped quantizer needs at least one group, not {config.groups}")
        parts = [config.of.build() for _ in range(config.groups)]
        self.parts = nn.ModuleList(parts)
        self.dim, self.each = parts[0].dim * config.groups, len(parts[0].codebook_sizes)
        self.codebook_sizes = parts[0].codebook_sizes * config.groups
        self._channels = parts[0].channels * config.groups

    @property
    def channels(self) -> int:
        """Channels that `forward` takes."""
        return self._channels

    def quantize(self, z: Float[Tensor, "n c"]) -> Quantized:
        """Every group by itself."""
        pieces = z.chunk(self.config.groups, -1)
        parts = [cast(VectorwiseQuantizer, part) for part in self.parts]
        found = [part.quantize(piece) for part, piece in zip(parts, pieces, strict=True)]
        loss = torch.stack([part.loss for part in found]).sum()
        stats = {}
        if self.config.disentangle and len(found) > 1:
            overlap = disentanglement([part.values for part in found])
            loss, stats = loss + self.config.disentangle * overlap, {"disentanglement": overlap.detach()}
        values, ids = (torch.cat([getattr(part, name) for part in found], -1) for name in ("values", "ids"))
        return Quantized(values, ids, loss, stats)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The groups' codes side by side."""
        check_codes(ids, self.codebook_sizes)
        pieces = ids.split(self.each, -1)
        parts = [cast(VectorwiseQuantizer, part) for part in self.parts]
        return torch.cat([part.lookup(piece) for part, piece in zip(parts, pieces, strict=True)], -1)


def disentanglement(values: list[Float[Tensor, "n d"]]) -> Float[Tensor, ""]:
    """Squared cosine, mean over positions and pairs."""
    directions = [F.normalize(part, dim=-1) for part in values]
    pairs = [(a * b).sum(-1).square().sum() / max(len(a), 1) for a, b in combinations(directions, 2)]
    return torch.stack(pairs).mean()
