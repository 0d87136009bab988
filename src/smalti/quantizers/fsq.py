"""Finite scalar quantization: every channel is rounded to a few levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class FSQConfig(QuantizerConfig):
    """Attributes:
    levels: of every channel, at least 3.
    margin: how far inside the outermost rounding borders the bound ends, as a share of the range.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    margin: float = 1e-3

    def build(self) -> FSQ:
        """A quantizer of this configuration."""
        return FSQ(self)


@system(
    "fsq",
    room="quantizers",
    paper=Paper("Finite Scalar Quantization: VQ-VAE Made Simple", 2023, "https://arxiv.org/abs/2309.15505"),
    official=Official("google-research/google-research (fsq)", "Apache-2.0"),
    presets={
        "2^10": FSQConfig((8, 5, 5, 5)),
        "2^8": FSQConfig((8, 6, 5)),
        "2^12": FSQConfig((7, 5, 5, 5, 5)),
        "2^14": FSQConfig((8, 8, 8, 6, 5)),
        "2^16": FSQConfig((8, 8, 8, 5, 5, 5)),
    },
    tags=("lookup-free",),
)
class FSQ(VectorwiseQuantizer):
    """Every channel rounded to a few levels; no codebook, no loss (Mentzer et al., 2023, arXiv 2309.15505).

    ```
    z [n d] ──tanh──► (-L/2, L/2) ──round──► level of each channel ──► ids [n 1]: mixed radix, channel 0 first
                                                       └──÷ ⌊L/2⌋────► values [n d] in [-1, 1]
    ```
    The gradient passes the rounding, not the tanh. Differs from the official code: the shift of even counts
    of levels is atanh of the half level (there: tan), so that 0 stays 0 before rounding.

    Raises:
        ConfigError: fewer than 3 levels; 2 with a negative margin.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside the codebook in `lookup`.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, config: FSQConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: FSQConfig = replace(config or FSQConfig(), changes)
        config = self.config
        least = 3 if config.margin >= 0 else 2  # the range must reach beyond half a level
        if not config.levels or min(config.levels) < least:
            raise ConfigError(
                f"levels {config.levels} must be {least} or more each; `lfq` takes two a channel"
            )
        self.dim, self.codebook_sizes = len(config.levels), (math.prod(config.levels),)
        basis = [math.prod(config.levels[:channel]) for channel in range(self.dim)]
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The nearest levels."""
        reach = (self.levels - 1) * (1 - self.config.margin) / 2
        half = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(z + torch.atanh(half / reach)) * reach - half
        level = bounded.detach().round()
        ids = ((level.long() + self.levels // 2) * self.basis).sum(-1, keepdim=True)
        values = self._value(level) + (bounded - bounded.detach()) / (self.levels // 2)
        return Quantized(values, ids, z.new_zeros(()))

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The levels of codes, in [-1, 1]."""
        check_codes(ids, self.codebook_sizes)
        digits = torch.div(ids.long(), self.basis, rounding_mode="floor") % self.levels
        return self._value((digits - self.levels // 2).float())

    def _value(self, level: Tensor) -> Tensor:
        return level / (self.levels // 2)
