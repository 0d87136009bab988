"""A discriminator at work: its own loss, the tokenizer's, and what keeps both steady."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.discriminators import discriminator

DECAY = 0.99  # of the running means of logits
LARGEST = 1e4  # adaptive weight


@dataclass(frozen=True)
class AdversarialOptions:
    """Attributes:
    weight: of the tokenizer's adversarial loss; 0: there is no discriminator.
    kind: "patch", "patch-3d", "style" or "transformer".
    width, depth: of the discriminator.
    loss: "hinge", or "logistic" (non-saturating).
    adaptive: scale the weight so that the adversarial gradient is as long as that of the distances
        (Esser et al., 2021), measured at the reconstruction.
    lecam: weight of the pull of logits towards each other's running mean (Tseng et al., 2021).
    matching: weight of the distance of the discriminator's features.
    start: step at which it joins.
    rate: learning rate of the discriminator, as a factor.
    """

    weight: float = 0.0
    kind: str = "patch"
    width: int = 64
    depth: int = 3
    loss: Literal["hinge", "logistic"] = "hinge"
    adaptive: bool = True
    lecam: float = 0.0
    matching: float = 0.0
    start: int = 0
    rate: float = 1.0


class Adversarial(nn.Module):
    """Both sides of adversarial training in one step of one optimizer.

    ```
    originals, rebuilt (detached) ──► discriminator ──► loss that moves the discriminator alone
    rebuilt ──► discriminator, held still ───────────► loss that moves the tokenizer alone
    ```
    """

    real: Tensor
    fake: Tensor
    step: Tensor

    def __init__(self, options: AdversarialOptions) -> None:
        super().__init__()
        self.options = options
        self.discriminator = discriminator(options.kind, options.width, options.depth)
        for name in ("real", "fake"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        pixels: Float[Tensor, "b 3 t h w"],
        rebuilt: Float[Tensor, "b 3 t h w"],
        distance: Float[Tensor, ""],
    ) -> dict[str, Tensor]:
        """Losses to be added: `discriminator`, `adversarial`, and where asked `lecam` and `matching`.

        Args:
            pixels, rebuilt: originals, and reconstructions with a gradient.
            distance: what the tokenizer minimises else; the adaptive weight is measured against it.
        """
        options = self.options
        if self.training:
            self.step += 1
        if int(self.step) <= options.start:
            return {}
        wanted, seen = self.discriminator(pixels), self.discriminator(rebuilt.detach())
        losses = {"discriminator": self._separate(wanted.logits, seen.logits)}
        if options.lecam:
            losses["lecam"] = options.lecam * self._lecam(wanted.logits.float(), seen.logits.float())
        with _held_still(self.discriminator):
            judged = self.discriminator(rebuilt)
            deceived = (
                -judged.logits.float().mean()
                if options.loss == "hinge"
                else F.softplus(-judged.logits.float()).mean()
            )
            if options.matching:
                pairs = zip(judged.features, wanted.features, strict=True)
                apart = torch.stack([(a - b.detach()).abs().mean() for a, b in pairs])
                losses["matching"] = options.matching * apart.mean()
        weight = options.weight * (self._adaptive(distance, deceived, rebuilt) if options.adaptive else 1.0)
        return losses | {"adversarial": weight * deceived}

    def _separate(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.options.loss == "hinge":
            return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2
        return (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()) / 2

    def _lecam(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.real.lerp_(real.mean(), 1 - DECAY)
                self.fake.lerp_(fake.mean(), 1 - DECAY)
        return F.relu(real - self.fake).square().mean() + F.relu(self.real - fake).square().mean()

    @staticmethod
    def _adaptive(distance: Tensor, deceived: Tensor, rebuilt: Tensor) -> Tensor | float:
        if not rebuilt.requires_grad:
            return 1.0
        far, false = (
            torch.autograd.grad(loss, rebuilt, retain_graph=True)[0].float().norm()
            for loss in (distance, deceived)
        )
        return (far / (false + 1e-4)).clamp(0, LARGEST).detach()


@contextmanager
def _held_still(module: nn.Module) -> Iterator[None]:
    """No gradient reaches the module's weights from what it computes here."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
