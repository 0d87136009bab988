"""Lookup-free quantization: the signs of the channels are the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.code_entropy import binary_entropies
from smalti.nn.code_gradients import pass_gradient
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes, mean_square
from smalti.registry import Official, Paper, replace, system

LARGEST_GROUP = 24


@dataclass(frozen=True)
class LFQConfig(QuantizerConfig):
    """Attributes:
    bits: channels, each of which is one bit of the code.
    entropy: weight of H(sample) - gamma · H(mean).
    gamma: weight of the second entropy in it.
    temperature: of softmax(2 z·c / temperature) over all codes c in {-1, 1}^bits.
    group_bits: the second entropy is summed over groups of so many bits, at most 24.
    epsilon: inside the logarithm of the mean; the official code has 1e-5.
    commitment: weight of pulling latents to codes.
    """

    bits: int = 18
    entropy: float = 0.1
    gamma: float = 1.0
    temperature: float = 0.01
    group_bits: int = 18
    epsilon: float = 1e-12
    commitment: float = 0.25

    def build(self) -> LFQ:
        """A quantizer of this configuration."""
        return LFQ(self)


@system(
    "lfq",
    room="quantizers",
    paper=Paper("Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", 2023,
                "https://arxiv.org/abs/2310.05737"),
    official=Official("TencentARC/SEED-Voken", "Apache-2.0"),
    presets={"magvit-v2": LFQConfig(), "open-magvit2": LFQConfig(epsilon=1e-5),
             "16384": LFQConfig(14)},
    tags=("lookup-free", "binary"),
)  # fmt: skip
class LFQ(VectorwiseQuantizer):
    """The signs of the channels as one code of many bits (MAGVIT-v2: Yu et al., 2023, arXiv 2310.05737).

    ```
    z [n bits] ──sign──► values in {-1, 1} (0 is -1)        ids [n 1] = Σ 2^i · [z_i > 0]
    ```
    Loss: entropy · (H(sample) - gamma · H(mean)) in training + commitment · |z - sg(values)|². Both entropies
    are those of the softmax over all 2^bits codes, exactly, though the codes are never listed; where
    `group_bits` is smaller than `bits`, the second is the sum over groups.

    Raises:
        ConfigError: bits outside 1..62, or groups of more than 24.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside 0..2^bits - 1 in `lookup`.
    """

    weights: Tensor

    def __init__(self, config: LFQConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: LFQConfig = replace(config or LFQConfig(), changes)
        config = self.config
        if not 1 <= config.bits <= 62 or not 1 <= min(config.group_bits, config.bits) <= LARGEST_GROUP:
            raise ConfigError(
                f"{config.bits} bits in groups of {config.group_bits}: 1 to 62 bits fit a code, and the "
                f"entropy of a group needs 2^bits numbers, so set group_bits to at most {LARGEST_GROUP}"
            )
        self.dim, self.codebook_sizes = config.bits, (2**config.bits,)
        self.register_buffer("weights", 2 ** torch.arange(config.bits), persistent=False)

    @property
    def scale(self) -> float:
        """The size of every channel of a code."""
        return 1.0

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The signs."""
        config = self.config
        positive = z.detach() > 0
        codes = self._codes(positive)
        loss, stats = config.commitment * mean_square(z, codes), {}
        if config.entropy and self.training:
            logits = z * (4 * self.scale / config.temperature)
            sample, mean = binary_entropies(logits, config.group_bits, config.epsilon)
            loss = loss + config.entropy * (sample - config.gamma * mean)
            stats = {"sample_entropy": sample.detach(), "batch_entropy": mean.detach()}
        ids = (positive * self.weights).sum(-1, keepdim=True)
        return Quantized(pass_gradient(z, codes), ids, loss, stats)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The signs that codes stand for."""
        check_codes(ids, self.codebook_sizes)
        return self._codes((ids.long() & self.weights) != 0)

    def _codes(self, positive: Tensor) -> Tensor:
        return torch.where(positive, self.scale, -self.scale)
