"""A few steps of an objective, as the loop takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.training.objectives.base import Objective


def trained(
    objective: Objective, batch: dict[str, Tensor], steps: int, rate: float = 2e-3
) -> list[dict[str, float]]:
    """The total and the parts of every step."""
    groups = [{"params": g["params"], "lr": rate * g["factor"]} for g in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    objective.train()
    log = []
    for _ in range(steps):
        loss = objective(batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        log.append({"total": loss.total.item()} | {name: part.item() for name, part in loss.parts.items()})
    return log


def shapes(count: int, side: int, frames: int = 1) -> Tensor:
    """Bright squares on ramps [count 3 frames side side], each at its place, moving to the right."""
    ramp = torch.linspace(0.1, 0.6, side)
    clips = torch.stack([ramp[:, None] * ramp, ramp[:, None].expand(side, side), ramp.expand(side, side)])
    clips = clips[None, :, None].repeat(count, 1, frames, 1, 1)
    for number in range(count):
        for frame in range(frames):
            y, x = 3 * number % (side // 2), (5 * number + frame) % (side // 2)
            clips[number, number % 3, frame, y : y + side // 3, x : x + side // 3] = 0.95
    return clips
