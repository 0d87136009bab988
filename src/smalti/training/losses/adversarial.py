"""A discriminator at work: its own loss, the tokenizer's, and what keeps both steady."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from smalti.errors import ConfigError, nearest
from smalti.nn.discriminators import discriminator

DECAY = 0.99  # of the running means of logits
LARGEST = 1e4  # adaptive weight
LOSSES = ("hinge", "logistic")


@dataclass(frozen=True)
class AdversarialOptions:
    """Steps are counted pass by pass: a batch of pictures and clips is two.

    Attributes:
    weight: of the tokenizer's adversarial loss; 0: there is no discriminator.
    kind: "patch", "style" or "transformer", of frames; "patch-3d", "style-3d" or "transformer-3d", of clips.
    width, depth: of the discriminator.
    loss: "hinge", or "logistic" (non-saturating).
    adaptive: scale the weight so that the adversarial gradient is as long as that of the distances
        (Esser et al., 2021), measured at the reconstruction.
    lecam: weight of the pull of logits towards each other's running mean (Tseng et al., 2021).
    matching: weight of the distance of the discriminator's features.
    r1: weight γ of γ/2 · |slope of the logits at originals|² (Mescheder et al., 2018).
    r1_every: steps from one such penalty to the next, which counts for all of them (Karras et al., 2020).
    smoothing: deviation of random labels: 1 - |n| for originals, |n| for reconstructions, |n| at most twice
        the deviation; of the logistic loss.
    start: step at which it joins.
    every: the discriminator learns in one of so many steps.
    rate: learning rate of the discriminator, as a factor.

    Raises:
        ConfigError: an unknown loss; labels to smooth, but a hinge loss, which has none; periods below one.
    """

    weight: float = 0.0
    kind: str = "patch"
    width: int = 64
    depth: int = 3
    loss: str = "hinge"
    adaptive: bool = True
    lecam: float = 0.0
    matching: float = 0.0
    r1: float = 0.0
    r1_every: int = 16
    smoothing: float = 0.0
    start: int = 0
    every: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"no adversarial loss {self.loss!r}: {nearest(self.loss, LOSSES)}")
        if self.smoothing and self.loss == "hinge":
            raise ConfigError("smoothing: a hinge loss has no labels; take loss: logistic")
        if min(self.every, self.r1_every) < 1:
            raise ConfigError(f"every {self.every} and r1_every {self.r1_every}: 1 is the least")


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
        """Losses to be added: `discriminator`, `adversarial`, and where asked `lecam`, `r1` and `matching`.

        Those that move the discriminator are missing in steps in which it does not learn.

        Args:
            pixels, rebuilt: originals, and reconstructions with a gradient.
            distance: what the tokenizer minimises else; the adaptive weight is measured against it.
        """
        options = self.options
        if self.training:
            self.step += 1
        turn = int(self.step) - options.start - 1
        if turn < 0:
            return {}
        learns = turn % options.every == 0
        wanted = self.discriminator(pixels) if learns or options.matching else None
        losses = {}
        if learns and wanted is not None:
            losses = self._lesson(pixels, wanted.logits.float(), rebuilt.detach(), turn)
        with _held_still(self.discriminator):
            judged = self.discriminator(rebuilt)
            logits = judged.logits.float()
            deceived = -logits.mean() if options.loss == "hinge" else F.softplus(-logits).mean()
            if options.matching and wanted is not None:
                pairs = zip(judged.features, wanted.features, strict=True)
                apart = [(a - b.detach()).abs().mean() for a, b in pairs]
                losses["matching"] = options.matching * torch.stack(apart).mean()
        weight = options.weight * (self._adaptive(distance, deceived, rebuilt) if options.adaptive else 1.0)
        return losses | {"adversarial": weight * deceived}

    def _lesson(self, pixels: Tensor, real: Tensor, rebuilt: Tensor, turn: int) -> dict[str, Tensor]:
        """What moves the discriminator."""
        options, fake = self.options, self.discriminator(rebuilt).logits.float()
        losses = {"discriminator": self._separate(real, fake)}
        if options.lecam:
            losses["lecam"] = options.lecam * self._lecam(real, fake)
        if options.r1 and self.training and turn // options.every % options.r1_every == 0:
            losses["r1"] = options.r1 / 2 * options.r1_every * self._steepness(pixels)
        return losses

    def _separate(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.options.loss == "hinge":
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        off, on = (self._uncertain(logits) for logits in (real, fake))
        judge = F.binary_cross_entropy_with_logits
        return (judge(real, 1 - off) + judge(fake, on)) / 2

    def _uncertain(self, logits: Tensor) -> Tensor:
        deviation = self.options.smoothing
        if not deviation:
            return torch.zeros_like(logits)
        return (deviation * torch.randn_like(logits)).abs().clamp(max=2 * deviation)

    def _steepness(self, pixels: Tensor) -> Tensor:
        seen = pixels.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            logits = self.discriminator(seen).logits.float()
            (slope,) = torch.autograd.grad(logits.sum(), seen, create_graph=True)
        return slope.float().square().flatten(1).sum(1).mean()

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
