"""S5: half of a long sequence, chosen by what came before every token, says as much as all of it."""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.backbones.s5 import S5, S5Config
from smalti.backbones.s5_training import parameter_groups, selective_loss, share_loss, task_loss
from smalti.claims.base import Finding, Lab, claim
from smalti.registry import replace

LENGTH, DIM, STEPS, BATCH = 256, 32, 500, 32
EVENTS, TIMES = 2, 4  # kinds of them; how many there are before the cue, and behind it
SIZE = 3.0  # of planted tokens, in deviations of the noise
DENSE, GUIDED, ALONE, RANDOM = "all tokens", "half, guided", "half, each by itself", "half at random"


def sequences(
    count: int, generator: torch.Generator, length: int = LENGTH
) -> tuple[Float[Tensor, "b n 32"], Int[Tensor, "b"], Int[Tensor, "b p"]]:
    """Noise with planted tokens: four of one kind, a cue, four of one kind. The class is the latter's kind.

    Returns:
        The tokens, the class, and the places of the cue and of the events behind it.
    """
    codebook = SIZE * torch.randn(EVENTS + 1, DIM, generator=torch.Generator().manual_seed(7))
    tokens = torch.randn(count, length, DIM, generator=generator)
    places = torch.rand(count, length, generator=generator).argsort(1)[:, : 2 * TIMES + 1].sort(1).values
    before, behind = torch.randint(EVENTS, (2, count, 1), generator=generator)
    cue = torch.full((count, 1), EVENTS)
    kinds = torch.cat([before.expand(-1, TIMES), cue, behind.expand(-1, TIMES)], 1)
    tokens.scatter_add_(1, places[..., None].expand(-1, -1, DIM), codebook[kinds])
    return tokens, behind[:, 0], places[:, TIMES:]


def network(method: str) -> S5:
    """Two blocks of S4, with or without a mask."""
    keep = 1.0 if method == DENSE else 0.5
    return S5(
        S5Config(DIM, DIM, 2, LENGTH, EVENTS, state=16, dropout=0.0, keep=keep, guided=method == GUIDED)
    )


def train(method: str, steps: int, seed: int) -> S5:
    """AdamW with a short warm-up and a falling rate, the same sequences for every method of a seed."""
    torch.manual_seed(seed)
    model = network(method).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 3e-3))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 3e-3], total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens, classes, _ = sequences(BATCH, generator)
        if method == RANDOM:
            features, masked = model.read(tokens, torch.zeros(BATCH, LENGTH, 2))
            loss = task_loss(model.classify(features), classes) + 2 * share_loss(masked.mask, 0.5)
        else:
            loss, _ = selective_loss(model, tokens, classes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.update()
    return model.eval()


@torch.no_grad()
def judge(model: S5, method: str, count: int, masking: Any = "zero") -> dict[str, float]:
    """Accuracy on new sequences, and the share of the cue and of the events behind it that was kept.

    Args:
        model: a trained one.
        method: by which it was trained.
        count: of sequences.
        masking: tokens are set to "zero", as in training, or left out ("drop").
    """
    generator = torch.Generator().manual_seed(12345)
    model.config = replace(model.config, {"masking": masking})
    tokens, classes, places = sequences(count, generator)
    logits = torch.randn(count, LENGTH, 2, generator=generator) if method == RANDOM else None
    features, masked = model.read(tokens, logits)
    right = (model.classify(features).argmax(-1) == classes).float().mean()
    return {"accuracy": right.item(), "planted kept": masked.mask.gather(1, places).mean().item()}
