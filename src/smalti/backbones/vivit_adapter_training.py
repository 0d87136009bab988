"""How SFA-ViViT learns: from stage 1 to stage 2, its losses and views, and what a step of it costs.

```
stage 1: 8 frames, all of it learns ─► second_stage ─► 32 … 128 frames, spatial part frozen, adapter new
```
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.vivit_adapter import ViViTAdapter, resample_table
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.strict_loading import load_strictly
from smalti.registry import replace


def second_stage(
    first: ViViTAdapter,
    frames: int = 32,
    adapter: Literal["bottleneck", "mlp", "none"] = "bottleneck",
    temporal: Literal["taken", "new"] = "taken",
    frozen: bool = True,
) -> ViViTAdapter:
    """The model of stage 2. With a bottleneck and as many frames it starts as the very same function.

    Args:
        first: of stage 1.
        frames: of the clips to come.
        adapter: between both parts.
        temporal: part and heads are "taken" over, positions interpolated; or "new", for comparison.
        frozen: the spatial part does not learn.
    """
    config = replace(first.config, {"frames": frames, "adapter": adapter, "frozen": frozen})
    second = type(first)(config).to(next(first.parameters()).device)
    old, own = first.state_dict(), second.state_dict()
    keep = ("adapter.",) if temporal == "taken" else ("adapter.", "temporal.", "heads.")
    state = {k: v for k, v in own.items() if k.startswith(keep)}
    state |= {k: v for k, v in old.items() if not k.startswith(keep)}
    if temporal == "taken":
        state["temporal.positions"] = resample_table(old["temporal.positions"], second.temporal)
    load_strictly(second, state)
    return second


def heads_loss(
    logits: Sequence[Float[Tensor, "b _k"]], labels: Int[Tensor, "b h"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of all heads."""
    parts = [
        F.cross_entropy(part, label, label_smoothing=smoothing)
        for part, label in zip(logits, labels.unbind(1), strict=True)
    ]
    return torch.stack(parts).sum()


def action_scores(logits: Sequence[Float[Tensor, "b _k"]]) -> Float[Tensor, "b v n"]:
    """Probability of every action: of its verb times that of its noun."""
    verb, noun = logits
    return verb.softmax(-1)[:, :, None] * noun.softmax(-1)[:, None]


def learning_rate(step: int, steps: int, warm_up: int, rate: float) -> float:
    """Linear from 0 over the warm-up, then along half a cosine to 0."""
    if step < warm_up:
        return rate * step / warm_up
    return rate / 2 * (1 + math.cos(math.pi * min((step - warm_up) / max(steps - warm_up, 1), 1.0)))


def views(
    pixels: Float[Tensor, "b 3 t h w"], frames: int, side: int, temporal: int = 4, spatial: int = 3
) -> list[Tensor]:
    """Clips spread evenly over a video, and squares over the longer side of each; logits are averaged.

    Args:
        pixels: a video.
        frames: of a clip.
        side: of a square.
        temporal: clips.
        spatial: squares of each.

    Raises:
        ConfigError: the video is shorter or smaller than one view.
    """
    length, height, width = pixels.shape[2:]
    if length < frames or min(height, width) < side:
        raise ConfigError(
            f"a video of {length} × {height} × {width} has no view of {frames} × {side} × {side}"
        )

    def starts(room: int, count: int) -> list[int]:
        if count == 1:
            return [room // 2]
        return [round(room * i / (count - 1)) for i in range(count)]

    tall = height > width
    middle = (width - side) // 2 if tall else (height - side) // 2
    given = []
    for first in starts(length - frames, temporal):
        clip = pixels[:, :, first : first + frames]
        for place in starts((height if tall else width) - side, spatial):
            top, left = (place, middle) if tall else (middle, place)
            given.append(clip[..., top : top + side, left : left + side])
    return given


@dataclass(frozen=True)
class StepCost:
    """What one step of training takes.

    Attributes:
        trainable: numbers that learn.
        flops: multiply-adds, forward and backward.
        saved_bytes: activations kept for the backward pass.
    """

    trainable: int
    flops: int
    saved_bytes: int


def step_cost(model: ViViTAdapter, pixels: Float[Tensor, "b 3 t h w"]) -> StepCost:
    """Of a model as it stands, on some clips; gradients are left at none."""
    labels = torch.zeros(len(pixels), len(model.heads), dtype=torch.long, device=pixels.device)

    def step() -> None:
        heads_loss(model.classify(model(pixels)), labels).backward()

    with SavedBytes(model) as saved:
        flops = count_flops(step)
    model.zero_grad(set_to_none=True)
    return StepCost(sum(p.numel() for p in model.parameters() if p.requires_grad), flops, saved.total)


class SavedBytes:
    """Counts what autograd keeps while a block of code runs, beside the parameters, which are there anyway.

    Args:
        module: whose parameters those are.

    Attributes:
        total: bytes, of every storage once.
    """

    def __init__(self, module: nn.Module) -> None:
        self.known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.total = 0
        self._kept: list[Any] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self._kept.append(storage)  # so that its address is not used again
            self.total += storage.nbytes()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._kept.clear()


def train_steps(
    model: ViViTAdapter,
    batches: Sequence[tuple[Tensor, Tensor]],
    rate: float,
    warm_up: int = 0,
    smoothing: float = 0.0,
    log: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """SGD with momentum 0.9 along the official schedule, over what learns.

    Args:
        model: of either stage.
        batches: pixels [b 3 t h w] and labels [b heads] of every step.
        rate: at its highest.
        warm_up: steps.
        smoothing: of labels.
        log: is told step and loss.
    """
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9)
    model.train()
    for step, (pixels, labels) in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step + 1, len(batches), warm_up, rate)
        loss = heads_loss(model.classify(model(pixels)), labels, smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        log(step, float(loss.detach()))
