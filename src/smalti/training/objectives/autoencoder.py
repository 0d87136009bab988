"""What training of any tokenizer minimises: distances, what its bottleneck asks, and a discriminator."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.tokenizers.base import Reconstruction, Tokenizer
from smalti.training.losses.adversarial import Adversarial, AdversarialOptions
from smalti.training.losses.annealing import EntropyAnnealing
from smalti.training.losses.distance import Perceptual, pixel_distance
from smalti.training.objectives.base import MEDIA, Loss, Objective, media, objective
from smalti.training.objectives.freezing import Frozen

SHOWN = 4  # pictures, and clips, of a sheet of samples


@dataclass(frozen=True)
class AutoencoderOptions:
    """Attributes:
    pixel: "l1", "l2" or "logit-laplace".
    pixel_weight, perceptual, gram: weights of the distances.
    bottleneck: weight of what the tokenizer itself asks: commitment, entropy, Kullback-Leibler, prior, ….
    entropy_start, entropy_steps: the quantizers' entropy weights begin so many times as large and fall in a
        line to what they are; 0 steps: they are so from the start.
    adversarial: the discriminator; none while its weight is 0.
    frozen: names of parameters of the tokenizer, or of modules that hold them, that are not trained; such
        modules stay in evaluation mode.
    """

    pixel: str = "l1"
    pixel_weight: float = 1.0
    perceptual: float = 0.0
    gram: float = 0.0
    bottleneck: float = 1.0
    entropy_start: float = 3.0
    entropy_steps: int = 0
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
    Objectives of one system that ask for more override `rebuild`.

    Args:
        tokenizer: one with `reconstruct`.
        options: weights.

    Attributes:
        perceived: media whose perceptual and Gram distances count.

    Raises:
        ConfigError: `frozen` names nothing of the tokenizer, or there is no entropy to anneal.
        UnsupportedError: the perceptual network's weights cannot be fetched.
    """

    perceived: tuple[str, ...] = MEDIA

    def __init__(self, tokenizer: Tokenizer, options: AutoencoderOptions | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options = options or AutoencoderOptions()
        self.distance = pixel_distance(options.pixel)
        wanted = options.perceptual or options.gram
        self._perceptual = (Perceptual() if wanted else None,)  # not a part: it is never trained or saved
        self.adversarial = Adversarial(options.adversarial) if options.adversarial.weight else None
        steps = options.entropy_steps
        self.annealing = EntropyAnnealing(options.entropy_start, steps) if steps else None
        self._frozen = Frozen(tokenizer, options.frozen)

    def train(self, mode: bool = True) -> AutoencoderObjective:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        self._frozen.rest()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The tokenizer's parameters that are trained, and the discriminator's."""
        groups = [{"params": [p for p in self.tokenizer.parameters() if p.requires_grad], "factor": 1.0}]
        if self.adversarial is not None:
            rate = self.options.adversarial.rate
            groups.append({"params": list(self.adversarial.parameters()), "factor": rate})
        return groups

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n 2 3 h w"]:
        """Original and reconstruction; of clips, the last frame."""
        return before_and_after(self.tokenizer, batch)

    def finish(self, system: nn.Module) -> None:
        """Let the next stage train what this one did not."""
        self._frozen.release()

    def rebuild(self, name: str, batch: dict[str, Tensor]) -> tuple[Reconstruction, dict[str, Tensor]]:
        """Pixels of a medium there and back, and losses to add that are neither distance nor bottleneck."""
        return self.tokenizer.reconstruct(batch[name]), {}

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Batch: `pictures [b 3 1 h w]` and `clips [b 3 t h w]`, either or both, in [0, 1]."""
        parts: dict[str, Tensor] = {}
        totals = []
        with nullcontext() if self.annealing is None else self.annealing.over(self.tokenizer):
            for name in media(batch):
                total, measured = self._medium(name, batch)
                totals.append(total)
                parts |= {f"{name}/{key}": value.detach() for key, value in measured.items()}
        return Loss(torch.stack(totals).mean(), parts)

    def _medium(self, name: str, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        options, pixels = self.options, batch[name]
        passed, further = self.rebuild(name, batch)
        rebuilt = passed.pixels.float()
        losses = {"pixel": options.pixel_weight * self.distance(pixels, rebuilt)}
        (network,) = self._perceptual
        if network is not None and name in self.perceived:
            far, gram = network.to(pixels.device)(pixels, rebuilt)
            losses |= {"perceptual": options.perceptual * far, "gram": options.gram * gram}
        apart = torch.stack(list(losses.values())).sum()
        losses |= {"bottleneck": options.bottleneck * passed.loss, **further}
        if self.adversarial is not None:
            losses |= self.adversarial(pixels, rebuilt, apart)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        psnr = -10 * (pixels - rebuilt.clamp(0, 1)).square().mean().log10()
        return total, losses | passed.parts | {"psnr": psnr}


def before_and_after(tokenizer: Tokenizer, batch: dict[str, Tensor]) -> Float[Tensor, "n 2 3 h w"]:
    """Original and reconstruction of a few pictures, and of the last frames of a few clips."""
    rows = []
    for pixels in (medium[:SHOWN] for medium in media(batch).values()):
        decoded = tokenizer.decode(tokenizer.encode(pixels))
        rows.append(torch.stack([pixels[:, :, -1], decoded[:, :, -1]], 1))
    return torch.cat(rows)
