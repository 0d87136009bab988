"""How S5 learns: a share to keep, groups for the optimiser, and long-short masked contrast before it all.

```
long clip ─► slow copy ─► projection ─► k ──┐
   └─ short clip ─► half masked at random ─► online ─► projection ─► q ─► InfoNCE(q, k, queue of other clips)
```
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.s5 import S5
from smalti.backbones.s5_parts import ViS4mer
from smalti.errors import ConfigError
from smalti.nn.momentum_copy import follow, momentum_copy


def share_loss(mask: Float[Tensor, "b n"], keep: float) -> Float[Tensor, ""]:
    """How far the share of kept tokens is from the one wished for, squared."""
    return (mask.mean() - keep) ** 2


def task_loss(prediction: Float[Tensor, "b k"], truth: Int[Tensor, "b"] | Float[Tensor, "b"]) -> Tensor:
    """Cross-entropy of classes, or the squared error of the one number where `truth` is a float."""
    if truth.is_floating_point():
        return F.mse_loss(prediction[:, 0], truth)
    return F.cross_entropy(prediction, truth)


def selective_loss(
    model: S5, values: Float[Tensor, "b n e"], truth: Tensor, weight: float = 2.0
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The task's loss and, `weight` times, that of the share; with figures to log.

    After the optimiser's step, `model.update()` lets the slow copy follow.
    """
    features, masked = model.read(values)
    prediction = model.classify(features)
    task, share = task_loss(prediction, truth), share_loss(masked.mask, model.config.keep)
    total = task if model.generator is None else task + weight * share
    return total, {"task": task.detach(), "kept": masked.mask.detach().mean()}


def parameter_groups(model: nn.Module, rate: float = 1e-3, decay: float = 0.01) -> list[dict[str, Any]]:
    """For AdamW: no decay and at most 1e-3 for A, B and dt of state spaces, apart from the rest."""
    apart, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (apart if name.endswith(("kernel.log_dt", "kernel.w", "kernel.B")) else rest).append(parameter)
    return [
        {"params": apart, "lr": min(rate, 1e-3), "weight_decay": 0.0},
        {"params": rest, "lr": rate, "weight_decay": decay},
    ]


def info_nce(
    q: Float[Tensor, "b d"],
    k: Float[Tensor, "b d"],
    negatives: Float[Tensor, "m d"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Cross-entropy of every q with its k against negatives; all are brought to length one."""
    q, k, negatives = (F.normalize(part.float(), dim=-1) for part in (q, k, negatives))
    logits = torch.cat([(q * k).sum(-1, keepdim=True), q @ negatives.mT], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class Queue(nn.Module):
    """The last keys, oldest first out.

    Args:
        size: keys that it holds; they are random until it has been filled once.
        dim: channels.
    """

    keys: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=-1))

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "b d"]) -> None:
        """Put keys in and as many out."""
        fresh = F.normalize(keys.to(self.keys), dim=-1)
        self.keys.copy_(torch.cat([self.keys, fresh])[-len(self.keys) :])


class LongShortContrast(nn.Module):
    """LSMCL: the masked short clip must tell its long clip from those of other videos.

    Args:
        model: whose online part and slow copy are taught together.
        dim: channels of the contrast.
        queue: keys of other clips; 0 takes those of the batch.
        ratio: share of the short clip's tokens that are set to zero.
        temperature: of the contrast.
        momentum: of the slow copy and its projection.
    """

    def __init__(
        self,
        model: S5,
        dim: int = 128,
        queue: int = 1024,
        ratio: float = 0.5,
        temperature: float = 0.1,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if model.slow is None:
            raise ConfigError("contrast needs a slow copy: choose `keep` below 1 and `guided`")
        width = model.config.dim >> model.config.depth
        self.model = model
        self.ratio, self.temperature, self.momentum = ratio, temperature, momentum
        self.project = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))
        self.slow_project = momentum_copy(self.project)
        self.queue = Queue(queue, dim) if queue else None

    def embed(self, values: Float[Tensor, "b n e"], slow: bool = False) -> Float[Tensor, "b d"]:
        """A clip's place in the contrast, of the online part or of the slow copy."""
        model = self._slow if slow else self.model.online
        project = self.slow_project if slow else self.project
        return project(model.features(model.encoder(values)).mean(1))

    def forward(self, short: Float[Tensor, "b n e"], long: Float[Tensor, "b m e"]) -> Float[Tensor, ""]:
        """The loss; the keys enter the queue. After the optimiser's step call `update`."""
        kept = torch.rand(short.shape[:2], device=short.device) >= self.ratio
        q = self.embed(short * kept[..., None])
        with torch.no_grad():
            k = self.embed(long, slow=True)
        if self.queue is None:
            return batch_contrast(q, k, self.temperature)
        loss = info_nce(q, k, self.queue.keys.clone(), self.temperature)
        self.queue.push(k)
        return loss

    def update(self) -> None:
        """The slow copy and its projection follow."""
        follow(self._slow, self.model.online, self.momentum)
        follow(self.slow_project, self.project, self.momentum)

    @property
    def _slow(self) -> ViS4mer:
        slow = self.model.slow
        if slow is None:
            raise ConfigError("contrast needs a slow copy: choose `keep` below 1 and `guided`")
        return slow


def batch_contrast(
    q: Float[Tensor, "b d"], k: Float[Tensor, "b d"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Cross-entropy of every q with its k against the other keys of the batch."""
    logits = F.normalize(q.float(), dim=-1) @ F.normalize(k.float(), dim=-1).mT / temperature
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device))


def long_and_short(
    values: Float[Tensor, "b t s e"], short: int, long: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b m e"]]:
    """A long clip drawn from every video and a short one drawn from inside it, as tokens in a row.

    Args:
        values: tokens of every frame.
        short: frames of the short clip.
        long: frames of the long one.
        generator: of the draw.

    Raises:
        ConfigError: clips longer than the video, or a short one that is not shorter.
    """
    frames = values.shape[1]
    if not 1 <= short <= long <= frames:
        raise ConfigError(f"clips of {short} and {long} frames cannot be cut from {frames}")

    def draw(choices: int) -> Int[Tensor, "b 1"]:
        return torch.randint(choices, (len(values), 1), generator=generator).to(values.device)

    first = draw(frames - long + 1)
    starts = (first + draw(long - short + 1), first)
    rows = torch.arange(len(values), device=values.device)[:, None]
    clips: Iterator[Tensor] = (
        values[rows, start + torch.arange(count, device=values.device)].flatten(1, 2)
        for start, count in zip(starts, (short, long), strict=True)
    )
    part, whole = clips
    return part, whole
