"""A Gaussian posterior in place of, or before, codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import UnsupportedError
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Paper, replace, system


@dataclass(frozen=True)
class VariationalConfig(QuantizerConfig):
    """Attributes:
    dim: channels of a latent; `forward` takes twice as many.
    kl: weight of the divergence from the standard normal.
    of: what quantizes the sample; none leaves it continuous.
    """

    dim: int = 16
    kl: float = 1e-6
    of: QuantizerConfig | None = None

    def build(self) -> Variational:
        """A quantizer of this configuration."""
        return Variational(self)


@system(
    "variational",
    room="quantizers",
    paper=Paper("Auto-Encoding Variational Bayes", 2013, "https://arxiv.org/abs/1312.6114"),
    presets={
        "kl": VariationalConfig(),
        "vector-quantized": VariationalConfig(32, 1e-4, VectorQuantizerConfig(16384, 32, normalize=True)),
    },
    tags=("continuous",),
)
class Variational(VectorwiseQuantizer):
    """A Gaussian posterior, continuous or quantized after its draw (Kingma and Welling, 2013, 1312.6114).

    ```
    z [n 2d] ──► mean, log variance in [-30, 20] ──► mean + σ · noise in training, else mean ──► values [n d]
                                                               └──► `of` ──► values, ids     (VAT, 2024)
    ```
    Loss: kl · KL(posterior ‖ N(0, 1)), summed over channels, mean over latents, and that of `of`. Without
    `of` there are no ids: `ids` has zero codes a latent.

    Raises:
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside its codebook in `lookup`.
        UnsupportedError: `lookup` of a continuous one.
    """

    def __init__(self, config: VariationalConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: VariationalConfig = replace(config or VariationalConfig(), changes)
        config = self.config
        self.dim = config.dim
        self.after = config.of.build() if config.of else None
        self.codebook_sizes = self.after.codebook_sizes if self.after else ()

    @property
    def channels(self) -> int:
        """A mean and a log variance for every channel of a latent."""
        return 2 * self.dim

    def quantize(self, z: Float[Tensor, "n c"]) -> Quantized:
        """A draw of the posterior in training, its mean otherwise."""
        mean, log_variance = z.chunk(2, -1)
        log_variance = log_variance.clamp(-30, 20)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / max(len(z), 1)
        latent = mean
        if self.training:
            latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        loss, stats = self.config.kl * divergence, {"kl": divergence.detach()}
        if self.after is None:
            return Quantized(latent, torch.empty(len(z), 0, dtype=torch.long, device=z.device), loss, stats)
        found = self.after.quantize(latent)
        return Quantized(found.values, found.ids, loss + found.loss, found.stats | stats)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The latents of codes, where the posterior is quantized."""
        if self.after is None:
            raise UnsupportedError("continuous latents have no ids to look up: store the values")
        return self.after.lookup(ids)
