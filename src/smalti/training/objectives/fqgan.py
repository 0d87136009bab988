"""What training of FQGAN minimises: distances, codebooks that differ, and what teachers say."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.extent import fit
from smalti.tokenizers.fqgan import FQGAN
from smalti.tokenizers.fqgan_parts import teacher_loss
from smalti.training.losses.adversarial import AdversarialOptions
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions
from smalti.training.objectives.base import objective


@dataclass(frozen=True)
class FQGANOptions(AutoencoderOptions):
    """As of `AutoencoderOptions`, with the official weights, and:

    Attributes:
    teacher: weight of InfoNCE to every teacher.
    """

    pixel: str = "l2"
    perceptual: float = 1.0
    adversarial: AdversarialOptions = field(default_factory=lambda: AdversarialOptions(0.5, start=20_000))
    teacher: float = 0.5


@objective("fqgan", FQGANOptions)
class FQGANObjective(AutoencoderObjective):
    """Reconstruction from codebooks that are kept apart, some of them taught (FQGAN: Bai et al., 2024).

    ```
    picture ─► codebooks side by side ─┬─► decoder ─► L2, perceptual, adaptive hinge discriminator
                                       ├─► commitment, entropy, 0.1 · squared cosine of every two codes
                                       └─► all but the first ─► heads ─► 0.5 · InfoNCE with `teacher_1`, …
    ```
    Disentanglement is the quantizer's own and part of `bottleneck`. `teacher_1 [b d]` of a batch is what a
    frozen network says of its pictures, for the second codebook, `teacher_2` for the third; without them the
    heads are not trained. Official: Adam 2e-4 (0.9, 0.95), decay 0.05, 256 pictures, 40 epochs. Perceptual
    distance is of VGG16 features that are not LPIPS'.

    Args:
        tokenizer: dual or triple.
        options: weights.

    Raises:
        ConfigError: `frozen` names nothing of the tokenizer.
        UnsupportedError: the perceptual network's weights cannot be fetched.
    """

    options: FQGANOptions
    tokenizer: FQGAN

    def __init__(self, tokenizer: FQGAN, options: FQGANOptions | None = None) -> None:
        super().__init__(tokenizer, options or FQGANOptions())

    def rebuild(self, name: str, batch: dict[str, Tensor]) -> tuple[Reconstruction, dict[str, Tensor]]:
        """Also the heads' losses, where the batch holds what teachers say of its pictures."""
        pixels = batch[name]
        said = {n: batch[f"teacher_{n}"] for n in range(1, 3) if f"teacher_{n}" in batch}
        if name != "pictures" or not said or not self.options.teacher:
            return super().rebuild(name, batch)
        padded, source = fit(pixels, self.tokenizer.compression)
        out = self.tokenizer(2 * padded[:, :, 0] - 1)
        frames = rearrange(out.pixels, "b c y x -> b c 1 y x")[..., : source.height, : source.width]
        stats = {key: each.mean() for key, each in out.quantized.stats.items()}
        losses = [
            teacher_loss(found.float(), said[number].to(found).float())
            for number, found in enumerate(out.features, 1)
            if number in said
        ]
        taught = {"teacher": self.options.teacher * torch.stack(losses).sum()} if losses else {}
        return Reconstruction((frames + 1) / 2, out.quantized.loss, stats), taught
