"""Rectified flow: straight lines from pictures to noise, and the way back (Liu et al., 2022, 2209.03003).

```
x_s = s · noise + (1 − s) · clean,  velocity = noise − clean          s drawn in training from a logit-normal
noise ──► x − velocity / steps, so many times, s from 1 to 0 ──► clean
            ▲ guided: with the condition and without it
```
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError

Guide = Callable[[Tensor, Tensor], Tensor]


def logit_normal(
    count: int, stratified: bool = False, generator: torch.Generator | None = None
) -> Float[Tensor, "count"]:
    """Shares of noise in (0, 1), the sigmoid of normal draws; stratified ones spread over the quantiles."""
    if not stratified:
        return torch.randn(count, generator=generator).sigmoid()
    quantile = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (math.sqrt(2) * torch.erfinv(2 * quantile - 1)).sigmoid()


def mode_scaled(count: int, scale: float, generator: torch.Generator | None = None) -> Float[Tensor, "count"]:
    """Uniform shares bent to the middle (0 < scale) or the ends (Esser et al., 2024, arXiv 2403.03206)."""
    u = torch.rand(count, generator=generator)
    return 1 - u - scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)


def noised(
    clean: Float[Tensor, "b *rest"], noise: Float[Tensor, "b *rest"], share: Float[Tensor, "b"]
) -> Float[Tensor, "b *rest"]:
    """The point of the line from `clean` to `noise` where noise has its share."""
    share = share.view(-1, *[1] * (clean.ndim - 1)).to(clean)
    return share * noise + (1 - share) * clean


def euler(
    velocity: Callable[[Tensor, float], Tensor], noise: Float[Tensor, "b *rest"], steps: int
) -> Float[Tensor, "b *rest"]:
    """Go back from noise in equal steps along what `velocity(x, share)` says.

    Raises:
        ConfigError: no step.
    """
    if steps < 1:
        raise ConfigError(f"sampling needs at least one step, not {steps}")
    x = noise
    for step in range(steps, 0, -1):
        x = x - velocity(x, step / steps).to(x.dtype) / steps
    return x


def classifier_free(scale: float) -> Guide:
    """Away from the unconditional answer, by `scale` times the difference (Ho and Salimans, 2022)."""
    return lambda told, free: free + scale * (told - free)


class ProjectedGuidance:
    """Adaptive projected guidance: only what turns the conditional answer (Sadat et al., 2024, 2410.02416).

    ```
    told − free ─► + momentum · what it was before ─► length at most `limit` ─► without its part along told
    told + (scale − 1) · that
    ```
    One object guides one sampling, for it remembers the steps before.

    Args:
        scale: as in classifier-free guidance; 1 is the conditional answer.
        momentum: of the difference over steps.
        limit: of its length over all but the first axis; 0 is none.
        parallel: share of the part along the conditional answer that stays.
    """

    def __init__(
        self, scale: float, momentum: float = -0.5, limit: float = 2.5, parallel: float = 0.0
    ) -> None:
        self.scale, self.momentum, self.limit, self.parallel = scale, momentum, limit, parallel
        self.before: Tensor | None = None

    def __call__(self, told: Float[Tensor, "b *rest"], free: Float[Tensor, "b *rest"]) -> Tensor:
        """The guided answer of the next step."""
        change = told - free
        if self.before is not None:
            change = change + self.momentum * self.before
        self.before = change
        axes = tuple(range(1, told.ndim))
        if self.limit > 0:
            length = change.square().sum(axes, keepdim=True).sqrt()
            change = change * (self.limit / length.clamp(min=1e-12)).clamp(max=1)
        whole = change.double()
        direction = F.normalize(told.double().flatten(1), dim=1).view_as(whole)
        along = (whole * direction).sum(axes, keepdim=True) * direction
        turned = (whole - (1 - self.parallel) * along).to(told.dtype)
        return told + (self.scale - 1) * turned
