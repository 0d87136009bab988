"""Residual quantization: every stage codes what the stages before left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.code_gradients import pass_gradient
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Paper, replace, system


@dataclass(frozen=True)
class ResidualConfig(QuantizerConfig):
    """Attributes:
    of: the quantizer of a stage.
    depth: stages.
    shared: one quantizer serves all stages.
    shrink: every stage sees its residual enlarged by 1 / shrink more than the stage before, as lookup-free
        quantizers need, whose codes have one size.
    dropout: odds that a training step keeps only a random count of first stages.
    """

    of: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    depth: int = 8
    shared: bool = False
    shrink: float = 1.0
    dropout: float = 0.0

    def build(self) -> Residual:
        """A quantizer of this configuration."""
        return Residual(self)


@system(
    "residual",
    room="quantizers",
    paper=Paper("SoundStream: An End-to-End Neural Audio Codec", 2021, "https://arxiv.org/abs/2107.03312"),
    presets={
        "vq": ResidualConfig(VectorQuantizerConfig(init="kmeans", restart_below=2.0)),
        "shared-vq": ResidualConfig(VectorQuantizerConfig(16384, 256), depth=4, shared=True),
        "lfq": ResidualConfig(LFQConfig(10), depth=4, shrink=0.5),
        "fsq": ResidualConfig(FSQConfig(), depth=4, shrink=0.25),
    },
    tags=("composed", "ordered"),
)
class Residual(VectorwiseQuantizer):
    """Any quantizer in stages, each coding what is left (SoundStream: Zeghidour et al., 2021, 2107.03312).

    ```
    z ─┬─► stage 1 ──► code 1 ─┐            z - code 1 ─┬─► stage 2 ──► code 2 ─┐ …      values = Σ codes
       └──────────── - ◄───────┘                        └──────── - ◄──────────┘         ids [n depth]
    ```
    Any first k codes decode. The loss is the mean of the stages'. The gradient passes to z once, for the sum;
    every stage's own loss reaches z too.

    Raises:
        ConfigError: no stage.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside its codebook, or too many codes, in `lookup`.
    """

    draws: Tensor

    def __init__(self, config: ResidualConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: ResidualConfig = replace(config or ResidualConfig(), changes)
        config = self.config
        if config.depth < 1:
            raise ConfigError(f"a residual quantizer needs at least one stage, not {config.depth}")
        self.stages = nn.ModuleList([config.of.build() for _ in range(1 if config.shared else config.depth)])
        self.dim, self.each = self._stage(0).dim, len(self._stage(0).codebook_sizes)
        self.codebook_sizes = self._stage(0).codebook_sizes * config.depth
        self.register_buffer("draws", torch.tensor(0))

    def _stage(self, number: int) -> VectorwiseQuantizer:
        return self.stages[0 if self.config.shared else number]  # pyright: ignore[reportReturnType]

    @property
    def channels(self) -> int:
        """Channels that `forward` takes."""
        return self._stage(0).channels

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """All stages, or in training with dropout a random count of them, the same in every process."""
        total, ids, losses = torch.zeros_like(z), [], []
        for number in range(self._depth()):
            scale = self.config.shrink**number
            found = self._stage(number).quantize((z - total) / scale)
            total = total + found.values.detach() * scale
            ids.append(found.ids)
            losses.append(found.loss)
        return Quantized(pass_gradient(z, total), torch.cat(ids, -1), torch.stack(losses).mean())

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The sum of the codes of the first stages."""
        check_codes(ids, self.codebook_sizes, prefix=True)
        total = ids.new_zeros((*ids.shape[:-1], self.dim), dtype=torch.float32)
        for number, codes in enumerate(ids.split(self.each, -1)):
            total = total + self._stage(number).lookup(codes) * self.config.shrink**number
        return total

    def _depth(self) -> int:
        if not (self.training and self.config.dropout):
            return self.config.depth
        self.draws += 1
        random = torch.Generator().manual_seed(int(self.draws))
        if torch.rand((), generator=random) >= self.config.dropout:
            return self.config.depth
        return int(torch.randint(1, self.config.depth + 1, (), generator=random))
