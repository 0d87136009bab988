"""The search for a Zero-TPrune configuration that fits a budget: draws, and the best of them.

```
seed ──► draw layers, retention, iterations ──► cost within the budget? ──► evaluate ──► best first
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from smalti.errors import BudgetError, ConfigError
from smalti.reducers.zero_tprune import ZeroTPrune, ZeroTPruneConfig

DRAWS = 100_000


@dataclass(frozen=True)
class Backbone:
    """Sizes of a plain vision transformer, for counting; the defaults are DeiT-S at 224 pixels.

    Attributes:
        tokens: before the first block, class token included.
        dim: channels.
        depth: blocks.
        classes: of the head.
        patch: pixels of a patch's side.
        mlp_ratio: hidden channels of the MLP, as a factor.
        protected: tokens that always stay.
    """

    tokens: int = 197
    dim: int = 384
    depth: int = 12
    classes: int = 1000
    patch: int = 16
    mlp_ratio: float = 4.0
    protected: int = 1

    def flops(self, counts: Sequence[int] | None = None) -> float:
        """Multiply-adds of a picture, as the field counts FLOPs; norms and activations are left out.

        Args:
            counts: tokens left after every block; all when not given.
        """
        counts = [self.tokens] * self.depth if counts is None else counts
        blocks = sum(self.block(count) for count in (self.tokens, *counts[:-1]))
        embedding = (self.tokens - self.protected) * 3 * self.patch**2 * self.dim
        return blocks + embedding + self.dim * self.classes

    def block(self, tokens: int) -> float:
        """Multiply-adds of a block: four products d × d and the MLP a token, and two tables n × n."""
        return (4 + 2 * self.mlp_ratio) * tokens * self.dim**2 + 2 * tokens**2 * self.dim


@dataclass(frozen=True)
class Trial:
    """A configuration that was evaluated.

    Attributes:
        config: what was drawn.
        flops: multiply-adds of the pruned backbone, without those of the pruning itself.
        score: higher is better.
    """

    config: ZeroTPruneConfig
    flops: float
    score: float


def search(
    evaluate: Callable[[ZeroTPruneConfig], float],
    budget: float,
    trials: int = 100,
    *,
    backbone: Backbone | None = None,
    base: ZeroTPruneConfig | None = None,
    slack: float = 0.03,
    seed: int = 0,
) -> list[Trial]:
    """Draw configurations whose cost lies just under a budget, evaluate them, and give them best first.

    Pruning layers (two to six), retention (0.5 to 1 in steps of 0.05) and iterations (30 to 50 in the first
    quarter of the blocks, 5 to 10 in the middle, 1 in the last) are drawn; all else is as in `base`.

    Args:
        evaluate: accuracy of a configuration on some data.
        budget: multiply-adds of a picture, at most.
        trials: configurations to evaluate.
        backbone: sizes of the host.
        base: the other options; removals by similarity are its first.
        slack: share of the budget that may stay unused.
        seed: of the draws.

    Raises:
        ConfigError: no trial asked for.
        BudgetError: too few configurations lie within the budget.
    """
    if trials < 1:
        raise ConfigError(f"a search needs at least one trial, not {trials}")
    backbone, base = backbone or Backbone(), base or ZeroTPruneConfig()
    generator = torch.Generator().manual_seed(seed)
    found: dict[ZeroTPruneConfig, float] = {}
    for _ in range(DRAWS):
        config = draw(base, backbone.depth, generator)
        counts = ZeroTPrune(config).counts(backbone.tokens, backbone.depth, backbone.protected)
        flops = backbone.flops(counts)
        if (1 - slack) * budget <= flops <= budget:
            found[config] = flops
        if len(found) == trials:
            break
    if len(found) < trials:
        raise BudgetError(
            f"{len(found)} of {trials} configurations were found within {slack:.0%} under {budget:.3g} FLOPs "
            f"(all tokens cost {backbone.flops():.3g}): raise the budget or the slack"
        )
    tried = [Trial(config, flops, evaluate(config)) for config, flops in found.items()]
    return sorted(tried, key=lambda trial: -trial.score)


def draw(base: ZeroTPruneConfig, depth: int, generator: torch.Generator) -> ZeroTPruneConfig:
    """A configuration with drawn layers, retention and iterations."""

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    number = whole(min(2, depth), min(6, depth))
    layers = sorted(torch.randperm(depth, generator=generator)[:number].tolist())

    def rounds(layer: int) -> int:
        quarter = 4 * layer // depth
        return whole(30, 50) if quarter == 0 else 1 if quarter == 3 else whole(5, 10)

    return dataclasses.replace(
        base,
        depth=depth,
        layers=tuple(layers),
        retention=tuple(whole(10, 20) / 20 for _ in layers),
        similar=base.similar[:1] * number,
        iterations=tuple(rounds(layer) for layer in layers),
    )
