"""What training of LARP minimises: distances, and how hard its tokens are to predict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.larp import LARP
from smalti.tokenizers.larp_prior import LARPPrior, LARPPriorConfig, replaced_share
from smalti.training.losses.adversarial import AdversarialOptions
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions
from smalti.training.objectives.base import objective

GAME = AdversarialOptions(
    0.3, "transformer-3d", 512, 12, "logistic", False, 0.001, smoothing=0.15, every=5, rate=0.3
)


@dataclass(frozen=True)
class LARPOptions(AutoencoderOptions):
    """As of `AutoencoderOptions`, with the official weights, and:

    Attributes:
    prior_weight: of the prior's cross-entropy; 0: there is no prior.
    prior: its sizes; channels and length are the tokenizer's.
    prior_rate: its learning rate, as a factor.
    rounds: of prediction; in those behind the first, some vectors are the prior's own draws.
    replaced: share of these at most.
    ramp: steps in which the share rises to that; officially 0.3 of the training.
    """

    perceptual: float = 1.0
    bottleneck: float = 0.1
    adversarial: AdversarialOptions = field(default_factory=lambda: GAME)
    prior_weight: float = 0.06
    prior: LARPPriorConfig = field(default_factory=LARPPriorConfig)
    prior_rate: float = 50.0
    rounds: int = 2
    replaced: float = 0.5
    ramp: int = 100_000


@objective("larp", LARPOptions)
class LARPObjective(AutoencoderObjective):
    """Reconstruction with codes that are drawn, in an order that a prior learns to follow (LARP, 2024).

    ```
    clip ─► queries ─► drawn codes ─┬─► decoder ─► L1, perceptual, transformer discriminator ───┬─► total
              ▲                     ├─► commitment and codebook ──────────────────────── · 0.1 ─┤
              └──── gradient ───────┴─► prior, twice: true codes, then some of its own ─ · 0.06 ┘
    ```
    The prior's gradient reaches the encoder, and not the codebook that it is compared with. The discriminator
    has smoothed labels and LeCam and learns in every fifth step. Official: Adam (0.5, 0.9), 1e-4, 128 clips.
    Deviations: the discriminator answers tube by tube, not with one class token; L1 and perceptual distance
    see all frames, in VGG16 features that are not LPIPS'.

    Args:
        tokenizer: whose quantizer draws in training (`temperature`).
        options: weights.

    Raises:
        ConfigError: `frozen` names nothing of the tokenizer.
        UnsupportedError: the perceptual network's weights cannot be fetched.
    """

    options: LARPOptions
    tokenizer: LARP
    step: Tensor

    def __init__(self, tokenizer: LARP, options: LARPOptions | None = None) -> None:
        options = options or LARPOptions()
        super().__init__(tokenizer, options)
        sizes = replace(options.prior, channels=tokenizer.quantizer.dim, length=tokenizer.length)
        self.prior = LARPPrior(sizes) if options.prior_weight else None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def share(self) -> float:
        """Of vectors that are replaced at the step in hand."""
        return replaced_share(int(self.step), max(self.options.ramp, 1), self.options.replaced, 1.0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The tokenizer's, the discriminator's, and the prior's, which learn fast."""
        groups = super().parameter_groups()
        if self.prior is not None:
            groups.append({"params": list(self.prior.parameters()), "factor": self.options.prior_rate})
        return groups

    def rebuild(self, name: str, batch: dict[str, Tensor]) -> tuple[Reconstruction, dict[str, Tensor]]:
        """Also the prior's loss of the tiles' tokens."""
        pixels, quantized = self.tokenizer.round_trip(batch[name])
        stats = {key: each.mean() for key, each in quantized.stats.items()}
        passed, further = Reconstruction(pixels, quantized.loss, stats), {}
        if self.prior is not None:
            codebook = self.tokenizer.codebook()
            hard = self.prior(
                quantized.values, quantized.ids[..., 0], codebook, self.share, self.options.rounds
            )
            further = {"prior": self.options.prior_weight * hard}
        if self.training:
            self.step += 1
        return passed, further
