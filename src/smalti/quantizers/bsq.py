"""Binary spherical quantization: signs of latents on the unit sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.quantizers.base import Quantized
from smalti.quantizers.lfq import LFQ, LFQConfig
from smalti.registry import Official, Paper, system


@dataclass(frozen=True)
class BSQConfig(LFQConfig):
    """As `LFQConfig`; the codes are the corners of a cube inside the unit sphere.

    The temperature is of softmax(2 u·c / temperature).
    """

    temperature: float = 1.0
    group_bits: int = 9

    def build(self) -> BSQ:
        """A quantizer of this configuration."""
        return BSQ(self)


@system(
    "bsq",
    room="quantizers",
    paper=Paper("Image and Video Tokenization with Binary Spherical Quantization", 2024,
                "https://arxiv.org/abs/2406.07548"),
    official=Official("zhaoyue-zephyrus/bsq-vit", "MIT"),
    presets={"18": BSQConfig(18), "36": BSQConfig(36)},
    tags=("lookup-free", "binary"),
)  # fmt: skip
class BSQ(LFQ):
    """Signs of latents that were put on the unit sphere (BSQ: Zhao et al., 2024, arXiv 2406.07548).

    ```
    z [n bits] ──l2──► u ──sign──► values in {-1, 1} / √bits, of length 1        ids [n 1]
    ```
    Loss and errors as for `LFQ`, of u, whose distance to its code is bounded.
    """

    def __init__(self, config: BSQConfig | None = None, **changes: Any) -> None:
        super().__init__(config or BSQConfig(), **changes)

    @property
    def scale(self) -> float:
        """The size of every channel of a code."""
        return self.dim**-0.5

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The signs of the latents' directions."""
        return super().quantize(F.normalize(z, dim=-1))
