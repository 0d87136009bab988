"""Vector quantization with one linear map of a frozen codebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.code_gradients import Gradient, pass_gradient
from smalti.nn.codebook_search import nearest_codes
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes, mean_square
from smalti.registry import Paper, replace, system


@dataclass(frozen=True)
class SimVQConfig(QuantizerConfig):
    """Attributes:
    codebook_size, dim: codes, and channels of each.
    gradient: how the latents get theirs.
    commitment: weight of pulling latents to codes.
    """

    codebook_size: int = 8192
    dim: int = 32
    gradient: Gradient = "rotation"
    commitment: float = 0.25

    def build(self) -> SimVQ:
        """A quantizer of this configuration."""
        return SimVQ(self)


@system(
    "simvq",
    room="quantizers",
    paper=Paper("Addressing Representation Collapse in Vector Quantized Models with One Linear Layer", 2024,
                "https://arxiv.org/abs/2411.02038"),
    presets={"8192": SimVQConfig(), "65536": SimVQConfig(65536)},
    tags=("codebook",),
)  # fmt: skip
class SimVQ(VectorwiseQuantizer):
    """Nearest of frozen random codes under one learnt linear map (SimVQ: Zhu et al., 2024, arXiv 2411.02038).

    ```
    frozen [K d] ──linear──► codebook [K d]        z [n d] ──► nearest ──► ids [n 1], values [n d]
    ```
    Every code moves with the map, so none is left behind. Loss: |sg(z) - c|² + commitment · |z - sg(c)|².

    Raises:
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside the codebook in `lookup`.
    """

    frozen: Tensor

    def __init__(self, config: SimVQConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: SimVQConfig = replace(config or SimVQConfig(), changes)
        config = self.config
        self.dim, self.codebook_sizes = config.dim, (config.codebook_size,)
        self.register_buffer("frozen", torch.randn(config.codebook_size, config.dim) / config.dim**0.5)
        self.transform = nn.Linear(config.dim, config.dim, bias=False)

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The nearest codes. Only the chosen ones are mapped with a gradient."""
        with torch.no_grad():
            ids = nearest_codes(z, self.transform(self.frozen))
        chosen = self.transform(F.embedding(ids, self.frozen))
        loss = mean_square(chosen, z.detach()) + self.config.commitment * mean_square(z, chosen.detach())
        return Quantized(pass_gradient(z, chosen, self.config.gradient), ids[:, None], loss)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The mapped codes."""
        check_codes(ids, self.codebook_sizes)
        return self.transform(F.embedding(ids[..., 0].long(), self.frozen))
