"""Index backpropagation quantization: every code gets a gradient at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.code_entropy import by_rows, softmax_entropies
from smalti.nn.codebook_search import highest_scores
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes, mean_square
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class IBQConfig(QuantizerConfig):
    """Attributes:
    codebook_size, dim: codes, and channels of each.
    commitment: weight of pulling codes to latents, as the official code weighs its terms.
    entropy: weight of H(sample) - H(mean) of the softmax over all codes.
    entropy_temperature: of that softmax.
    entropy_epsilon: ε in the logarithm of the mean.
    """

    codebook_size: int = 16384
    dim: int = 256
    commitment: float = 0.25
    entropy: float = 0.05
    entropy_temperature: float = 0.01
    entropy_epsilon: float = 1e-12

    def build(self) -> IBQ:
        """A quantizer of this configuration."""
        return IBQ(self)


@system(
    "ibq",
    room="quantizers",
    paper=Paper("Scalable Image Tokenization with Index Backpropagation Quantization", 2024,
                "https://arxiv.org/abs/2412.02692"),
    official=Official("TencentARC/SEED-Voken", "Apache-2.0"),
    presets={"16384": IBQConfig(), "1024": IBQConfig(1024), "8192": IBQConfig(8192),
             "262144": IBQConfig(262144)},
    tags=("codebook",),
)  # fmt: skip
class IBQ(VectorwiseQuantizer):
    """The most similar code, with a gradient for all codes through its index (Shi et al., 2024, 2412.02692).

    ```
    z [n d] · codebook [K d] ──softmax──► p [n K]      values = hard code, gradient of Σ p · code
                              └─argmax──► ids [n 1]    p is made for 256 latents at a time
    ```
    Loss (means): |values - z|² + |z - sg(code)|² + commitment · |code - sg(z)|², and the entropies.

    Raises:
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside the codebook in `lookup`.
    """

    def __init__(self, config: IBQConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: IBQConfig = replace(config or IBQConfig(), changes)
        config = self.config
        self.dim, self.codebook_sizes = config.dim, (config.codebook_size,)
        bound = 1 / config.codebook_size
        self.codebook = nn.Parameter(torch.empty(config.codebook_size, config.dim).uniform_(-bound, bound))

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The most similar codes."""
        config = self.config
        ids = highest_scores(z.detach(), self.codebook.detach())
        hard = F.embedding(ids, self.codebook)
        values, stats = hard, {}
        if torch.is_grad_enabled():
            soft = torch.cat([part for (part,) in by_rows(_expected_codes, z, self.codebook)])
            values = hard + (soft - soft.detach())
        loss = mean_square(values, z) + mean_square(hard.detach(), z)
        loss = loss + config.commitment * mean_square(hard, z.detach())
        if config.entropy and self.training:
            sample, mean = softmax_entropies(
                z, self.codebook, None, config.entropy_temperature, config.entropy_epsilon
            )
            loss = loss + config.entropy * (sample - mean)
            stats = {"sample_entropy": sample.detach(), "batch_entropy": mean.detach()}
        return Quantized(values, ids[:, None], loss, stats)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The codes."""
        check_codes(ids, self.codebook_sizes)
        return F.embedding(ids[..., 0].long(), self.codebook)


def _expected_codes(rows: Tensor, codebook: Tensor) -> tuple[Tensor]:
    """Σ p · code, where codes get their gradient through p alone."""
    return (torch.softmax(rows @ codebook.t(), -1) @ codebook.detach(),)
