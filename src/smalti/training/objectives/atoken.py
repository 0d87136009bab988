"""What training of AToken minimises: textures instead of a discriminator, and what a teacher sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.atoken import LOGIT_SCALE, AToken
from smalti.tokenizers.base import Reconstruction
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions
from smalti.training.objectives.base import objective


@dataclass(frozen=True)
class ATokenOptions(AutoencoderOptions):
    """As of `AutoencoderOptions`, with the official weights, and:

    Attributes:
    meaning: weight of the divergence from how a teacher likens pictures to texts.
    """

    perceptual: float = 10.0
    gram: float = 1000.0
    meaning: float = 1.0


@objective("atoken", ATokenOptions)
class ATokenObjective(AutoencoderObjective):
    """Reconstruction without a discriminator, on pictures and clips in turn (AToken: Lu et al., 2025).

    ```
    pictures ─► sets ─► latents (drawn | FSQ) ─► L1 + 10 perceptual + 1,000 Gram ──────┐
    clips ────► sets ─► latents ───────────────► L1 ───────────────────────────────────┼─► total
                  └─► pooled ─► likeness to `texts` ─► KL from that of `teacher` ──────┤
                          the bottleneck's own: 1e-8 KL to the standard normal, or none ┘
    ```
    Media take turns where the source says so (`crops` with `alternate`), and turns of one step add up with
    `accumulate`. The quantizer is the tokenizer's: KL without levels, FSQ with. `teacher [b d]` and
    `texts [k d]` in a batch, a frozen SigLIP's vectors of its pictures and of texts, teach `pooled`; without
    them its head is not trained. Deviations: perceptual and Gram distances are of VGG16 features of length
    1 that are not LPIPS'; no CLIP perceptual distance, and no sigmoid loss of clips and texts.

    Args:
        tokenizer: continuous or discrete.
        options: weights.

    Raises:
        ConfigError: `frozen` names nothing of the tokenizer.
        UnsupportedError: the perceptual network's weights cannot be fetched.
    """

    options: ATokenOptions
    tokenizer: AToken
    perceived = ("pictures",)

    def __init__(self, tokenizer: AToken, options: ATokenOptions | None = None) -> None:
        super().__init__(tokenizer, options or ATokenOptions())

    def rebuild(self, name: str, batch: dict[str, Tensor]) -> tuple[Reconstruction, dict[str, Tensor]]:
        """Also the teacher's likeness of pictures and texts, where the batch holds it."""
        pixels, passed = self.tokenizer.round_trip(batch[name])
        stats = {key: each.mean() for key, each in passed.quantized.stats.items()}
        further = {}
        if name == "pictures" and self.options.meaning and {"teacher", "texts"} <= batch.keys():
            apart = likeness_divergence(passed.seen.pooled, batch["teacher"], batch["texts"])
            further = {"meaning": self.options.meaning * apart}
        return Reconstruction(pixels, passed.quantized.loss, stats), further


def likeness_divergence(
    pooled: Float[Tensor, "b d"], teacher: Float[Tensor, "b d"], texts: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of picture–text likenesses, softmax over texts, from the teacher's."""
    scale = torch.tensor(LOGIT_SCALE).exp().to(pooled.device)
    ours, theirs = (
        F.log_softmax(scale * F.normalize(x.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).mT, -1)
        for x in (pooled, teacher)
    )
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
