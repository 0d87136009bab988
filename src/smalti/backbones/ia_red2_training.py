"""How IA-RED² learns and how it explains: policy gradient, curriculum, heat maps.

```
group 0: interpreter (policy gradient) ─► blocks (cross-entropy) ─► group 1: … ─► group D−1
scores of a group ─► grid ─► clamp, stretch ─► size of the picture ─► heat map in [0, 1]
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.ia_red2 import IARed2ViT
from smalti.errors import ConfigError
from smalti.reducers.ia_red2 import bounded, log_probability, reward, sample


@dataclass(frozen=True)
class PolicyGradient:
    """REINFORCE with a self-critical baseline: the reward of a drawn action less that of the greedy one.

    Attributes:
        penalty: τ, what a wrong prediction costs; larger keeps more tokens. 1 in the released code.
        beta: of the bound on scores while actions are drawn; none, as in the last released version, when 1.
        weights: factor of every group's reward, such as the share of blocks from the group to the end, which
            stands unused in the released code: (1, 2/3, 1/3); all 1 when not given.
    """

    penalty: float = 1.0
    beta: float = 1.0
    weights: tuple[float, ...] | None = None

    def loss(
        self,
        model: IARed2ViT,
        pixels: Float[Tensor, "b 3 t h w"],
        labels: Int[Tensor, "b"],
        group: int,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss whose gradient teaches the interpreter of one group, and figures to log.

        Interpreters before it act greedily, those after it not at all. Both runs, drawn and greedy, are made
        without gradients: only the interpreter gets one.
        """
        drawn_action: list[Tensor] = []

        def policy(
            scores: Float[Tensor, "b n"], alive: Bool[Tensor, "b n"], number: int
        ) -> Bool[Tensor, "b n"]:
            if number != group:
                return model.greedy(scores, alive, number)
            drawn_action.append(sample(bounded(scores, self.beta), alive, generator))
            return drawn_action[0]

        with torch.no_grad():
            greedy = model.run(pixels, active=group)
            drawn = model.run(pixels, policy, active=group)
        before = greedy.alive[group - 1] if group else torch.ones_like(greedy.alive[0])
        gained = [
            reward(run.alive[group], run.logits.argmax(-1) == labels, self.penalty) for run in (drawn, greedy)
        ]
        weight = 1.0 if self.weights is None else self.weights[group]
        advantage = weight * (gained[0] - gained[1])
        scores = model.reducer.score(greedy.entries[group], model.context(before, group), group)
        likelihood = log_probability(bounded(scores, self.beta), drawn_action[0], before)
        figures = {
            "reward": gained[1].mean(),
            "kept": greedy.alive[group][:, 1:].float().mean(),
            "accuracy": (greedy.logits.argmax(-1) == labels).float().mean(),
        }
        return -(advantage * likelihood).mean(), figures


def adaptation_loss(
    model: IARed2ViT, pixels: Float[Tensor, "b 3 t h w"], labels: Int[Tensor, "b"], group: int
) -> Float[Tensor, ""]:
    """Cross-entropy with tokens dropped by the interpreters up to a group, which get no gradient."""
    with torch.no_grad():
        actions = model.run(pixels, active=group).alive
    logits = model.run(pixels, lambda scores, alive, number: actions[number], active=group).logits
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Phase:
    """A step of the curriculum.

    Attributes:
        group: whose interpreter learns, or from which on blocks adapt.
        kind: "policy" trains the interpreter, "adapt" the blocks.
        epochs: how long.
    """

    group: int
    kind: Literal["policy", "adapt"]
    epochs: int


def curriculum(groups: int, policy_epochs: int = 1, adapt_epochs: int = 2) -> Iterator[Phase]:
    """Group after group: its interpreter, then the blocks behind it. 10 and 20 epochs are reported."""
    for group in range(groups):
        yield Phase(group, "policy", policy_epochs)
        yield Phase(group, "adapt", adapt_epochs)


def open_for(model: IARed2ViT, phase: Phase) -> list[nn.Parameter]:
    """Freeze all but what a phase trains, and give that: an interpreter, or the blocks behind it."""
    model.requires_grad_(False)
    if phase.kind == "policy":
        parts: list[nn.Module] = [model.reducer.interpreters[phase.group]]
    else:
        parts = [*model.blocks[model.config.reducer.starts[phase.group] :], model.norm, model.head]
    for part in parts:
        part.requires_grad_(True)
    return [parameter for part in parts for parameter in part.parameters()]


def heat_map(
    model: IARed2ViT, pixels: Float[Tensor, "b 3 t h w"], group: int = 1, least: float = 0.48
) -> Float[Tensor, "b h w"]:
    """What a group's interpreter finds important, from 0 to 1, in the size of the pictures.

    Args:
        model: a trained one.
        pixels: pictures.
        group: whose scores; the released tool shows the second group's, others rank by the first (0).
        least: scores below it are raised to it.

    Raises:
        ConfigError: no such group.
    """
    if not 0 <= group < model.config.reducer.groups:
        raise ConfigError(f"no group {group}: there are 0 to {model.config.reducer.groups - 1}")
    with torch.no_grad():
        scores = model.run(pixels).scores[group][:, 1:].clamp(least, 1)
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    side = model.config.size // model.config.patch
    stretched = ((scores - low) / torch.where(high > low, high - low, 1)).unflatten(1, (1, side, side))
    return F.interpolate(stretched, pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def overlay(
    pixels: Float[Tensor, "b 3 t h w"], heat: Float[Tensor, "b h w"], share: float = 0.4
) -> Float[Tensor, "b 3 t h w"]:
    """Pictures under a heat map from blue over green to red, which holds `share` of the result."""
    ramp = torch.stack([heat, 1 - (2 * heat - 1).abs(), 1 - heat], 1)
    return (1 - share) * pixels + share * ramp[:, :, None]
