"""One index into two codebooks, chosen by both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.code_gradients import Gradient, pass_gradient
from smalti.nn.codebook_search import highest_scores
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes, mean_square
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class DualConfig(QuantizerConfig):
    """Attributes:
    codebook_size: codes of both codebooks.
    semantic_dim, pixel_dim: channels of each.
    pixel_weight: of the second squared distance beside the first.
    gradient: how the latents get theirs.
    commitment: weight of pulling latents to codes.
    """

    codebook_size: int = 32768
    semantic_dim: int = 32
    pixel_dim: int = 8
    pixel_weight: float = 1.0
    gradient: Gradient = "straight-through"
    commitment: float = 0.25

    def build(self) -> DualCodebook:
        """A quantizer of this configuration."""
        return DualCodebook(self)


@system(
    "dual",
    room="quantizers",
    paper=Paper("TokenFlow: Unified Image Tokenizer for Multimodal Understanding and Generation", 2024,
                "https://arxiv.org/abs/2412.03069"),
    official=Official("ByteVisionLab/TokenFlow", "MIT"),
    presets={"tokenflow": DualConfig(), "tokenflow-131072": DualConfig(131072)},
    tags=("codebook",),
)  # fmt: skip
class DualCodebook(VectorwiseQuantizer):
    """One id that is near in a semantic and in a pixel codebook (TokenFlow: Qu et al., 2024, 2412.03069).

    ```
    z [n s+p] ──► l2 of the semantic part, l2 of the pixel part
                    └► id = argmin of distance² to semantic code + weight · distance² to pixel code
                                                       values = both codes of length 1, side by side
    ```
    Between vectors of length 1 that sum is one search with the parts side by side, the pixel part scaled by
    the weight. Loss: |sg(z) - c|² + commitment · |z - sg(c)|², means over all channels.

    Raises:
        ConfigError: a negative weight.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside the codebook in `lookup`.
    """

    def __init__(self, config: DualConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: DualConfig = replace(config or DualConfig(), changes)
        config = self.config
        if config.pixel_weight < 0:
            raise ConfigError(f"pixel_weight {config.pixel_weight} must not be negative")
        self.dim, self.codebook_sizes = config.semantic_dim + config.pixel_dim, (config.codebook_size,)
        self.semantic, self.pixel = (
            nn.Parameter(F.normalize(torch.randn(config.codebook_size, dim), dim=-1))
            for dim in (config.semantic_dim, config.pixel_dim)
        )

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The jointly nearest codes."""
        config = self.config
        sizes = [config.semantic_dim, config.pixel_dim]
        semantic, pixel = (F.normalize(part, dim=-1) for part in z.split(sizes, -1))
        z = torch.cat([semantic, pixel], -1)
        with torch.no_grad():
            asked = torch.cat([semantic, pixel * config.pixel_weight], -1)
            codes = torch.cat([F.normalize(codebook, dim=-1) for codebook in (self.semantic, self.pixel)], -1)
            ids = highest_scores(asked, codes)
        chosen = self._chosen(ids)
        loss = mean_square(chosen, z.detach()) + config.commitment * mean_square(z, chosen.detach())
        return Quantized(pass_gradient(z, chosen, config.gradient), ids[:, None], loss)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """Both codes of length 1, side by side."""
        check_codes(ids, self.codebook_sizes)
        return self._chosen(ids[..., 0].long())

    def _chosen(self, ids: Tensor) -> Tensor:
        books = (self.semantic, self.pixel)
        return torch.cat([F.normalize(F.embedding(ids, book), dim=-1) for book in books], -1)
