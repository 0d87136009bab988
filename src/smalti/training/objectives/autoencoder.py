"""What training of any tokenizer minimises: distances, what its bottleneck asks, and a discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.tokenizers.base import Tokenizer
from smalti.training.losses.adversarial import Adversarial, AdversarialOptions
from smalti.training.losses.distance import Perceptual, pixel_distance
from smalti.training.objectives.base import Loss, Objective, objective

SHOWN = 4  # pictures, and clips, of a sheet of samples


@dataclass(frozen=True)
class AutoencoderOptions:
    """Attributes:
    pixel: "l1", "l2" or "logit-laplace".
    pixel_weight, perceptual, gram: weights of the distances.
    bottleneck: weight of what the tokenizer itself asks: commitment, entropy, Kullback-Leibler, prior, ….
    adversarial: the discriminator; none while its weight is 0.
    frozen: names of parameters of the tokenizer, or of modules that hold them, that are not trained.
    """

    pixel: str = "l1"
    pixel_weight: float = 1.0
    perceptual: float = 0.0
    gram: float = 0.0
    bottleneck: float = 1.0
    adversarial: AdversarialOptions = field(default_factory=AdversarialOptions)
    frozen: tuple[str, ...] = ()


@objective("autoencoder", AutoencoderOptions)
class AutoencoderObjective(Objective):
    """Reconstruction at any mixture of losses that the field uses.

    ```
    pixels ─► tokenizer.reconstruct ─┬─► pixels ─► L1 | L2 | logit-Laplace, perceptual, Gram ─┬─► total
                                     │      └─► discriminator: hinge, LeCam, matching ────────┤
                                     └─► what the bottleneck asks ────────────────────────────┘
    ```
    Args:
        tokenizer: one with `reconstruct`.
        options: weights.

    Raises:
        ConfigError: `frozen` names nothing of the tokenizer.
        UnsupportedError: the perceptual network's weights cannot be fetched.
    """

    def __init__(self, tokenizer: Tokenizer, options: AutoencoderOptions | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options = options or AutoencoderOptions()
        self.distance = pixel_distance(options.pixel)
        wanted = options.perceptual or options.gram
        self._perceptual = (Perceptual() if wanted else None,)  # not a part: it is never trained or saved
        self.adversarial = Adversarial(options.adversarial) if options.adversarial.weight else None
        freeze(tokenizer, options.frozen)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The tokenizer's parameters that are trained, and the discriminator's."""
        groups = [{"params": [p for p in self.tokenizer.parameters() if p.requires_grad], "factor": 1.0}]
        if self.adversarial is not None:
            rate = self.options.adversarial.rate
            groups.append({"params": list(self.adversarial.parameters()), "factor": rate})
        return groups

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n 2 3 h w"]:
        """Original and reconstruction; of clips, the last frame."""
        rows = []
        for pixels in (medium[:SHOWN] for medium in batch.values()):
            decoded = self.tokenizer.decode(self.tokenizer.encode(pixels))
            rows.append(torch.stack([pixels[:, :, -1], decoded[:, :, -1]], 1))
        return torch.cat(rows)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Batch: `pictures [b 3 1 h w]` and `clips [b 3 t h w]`, either or both, in [0, 1]."""
        parts: dict[str, Tensor] = {}
        totals = []
        for name, pixels in batch.items():
            total, measured = self._medium(pixels)
            totals.append(total)
            parts |= {f"{name}/{key}": value.detach() for key, value in measured.items()}
        return Loss(torch.stack(totals).mean(), parts)

    def _medium(self, pixels: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, dict[str, Tensor]]:
        options = self.options
        passed = self.tokenizer.reconstruct(pixels)
        rebuilt = passed.pixels.float()
        losses = {"pixel": options.pixel_weight * self.distance(pixels, rebuilt)}
        (network,) = self._perceptual
        if network is not None:
            far, gram = network.to(pixels.device)(pixels, rebuilt)
            losses |= {"perceptual": options.perceptual * far, "gram": options.gram * gram}
        apart = torch.stack(list(losses.values())).sum()
        losses["bottleneck"] = options.bottleneck * passed.loss
        if self.adversarial is not None:
            losses |= self.adversarial(pixels, rebuilt, apart)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        psnr = -10 * (pixels - rebuilt.clamp(0, 1)).square().mean().log10()
        return total, losses | passed.parts | {"psnr": psnr}


def freeze(module: nn.Module, names: tuple[str, ...]) -> None:
    """Let the named parameters, and those of the named modules, keep their values.

    Raises:
        ConfigError: a name that nothing has.
    """
    for name in names:
        held = [p for key, p in module.named_parameters() if key == name or key.startswith(f"{name}.")]
        if not held:
            raise ConfigError(f"frozen: {type(module).__name__} has no parameter or module {name!r}")
        for parameter in held:
            parameter.requires_grad_(False)
