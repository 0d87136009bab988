"""How TTVSR learns: its loss, which parts learn how fast, and what a clip may be turned into.

```
clip, fine clip ─► augmented ─► restore ─► charbonnier ─► Adam 2e-4 (0.9, 0.99), cosine to 1e-7
```
400,000 steps of 8 to 16 clips, patches of 256 fine pixels. REDS: 50 frames; Vimeo-90K: seven, mirrored twice
to 28.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.backbones.ttvsr import TTVSR

FLOW_FACTOR = 0.125
STILL_STEPS = 5000


def charbonnier(
    candidate: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b 3 t h w"], eps: float = 1e-12
) -> Float[Tensor, ""]:
    """The mean of √(d² + ε), d being the difference: L1, but smooth at 0."""
    return ((candidate - target).square() + eps).sqrt().mean()


def parameter_groups(model: TTVSR) -> list[dict[str, Any]]:
    """Parameters with the `factor` of the learning rate at which they learn: SPyNet at an eighth."""
    flow = [] if model.spynet is None else list(model.spynet.parameters())
    known = {id(parameter) for parameter in flow}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": rest, "factor": 1.0}, {"params": flow, "factor": FLOW_FACTOR}]
    return [group for group in groups if group["params"]]


def hold_flow(model: TTVSR, step: int, still: int = STILL_STEPS) -> None:
    """Keep SPyNet as it is during the first steps; call it before each."""
    if model.spynet is not None:
        model.spynet.requires_grad_(step >= still)


def mirrored(clip: Float[Tensor, "b 3 t h w"]) -> Tensor:
    """The clip, then the clip backwards: twice as many frames."""
    return torch.cat([clip, clip.flip(2)], 2)


def augmented(clips: tuple[Tensor, ...], generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
    """Clips [b 3 t h w] of one scene, turned alike: flips, time backwards, swapped sides, at even odds."""
    chances = torch.rand(4, generator=generator) < 0.5
    dims = [dim for dim, chosen in zip((-1, -2, 2), chances.tolist(), strict=False) if chosen]
    turned = tuple(clip.flip(dims) for clip in clips)
    return tuple(clip.mT for clip in turned) if chances[3] else turned
