"""Small classifiers for claims about backbones: one way to train them, to test them, to tell the rows.

```
Fashion-MNIST ─► pixels [n 3 1 h w] in [0, 1], labels ─► `learn` a backbone or a plain ViT ─► `right`
```
Every contender of a seed sees the same pictures in the same order, at the same rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import DEVIATION, MEAN
from smalti.claims.material import clothes, small_vit
from smalti.training.corpora.fashion import fashion

Batch = Callable[[str, Int[Tensor, "n"]], tuple[Tensor, Int[Tensor, "n"]]]  # split, places → inputs, labels
Naming = Callable[[Tensor], Float[Tensor, "b k"]]  # inputs → logits
TRAINING, BATCH = 60_000, 32
POINT = 0.01  # of accuracy; less is noise, with one or two thousand test pictures and a few seeds


def cluttered(split: str, index: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n 3 1 48 48"], Int[Tensor, "n"]]:
    """Clothes on clutter, 48 pixels a side."""
    pictures, labels, _ = clothes(split, index)
    return pictures[:, :, None] + 0.5, labels


def clean(side: int) -> Batch:
    """Clothes alone, grey, enlarged to so many pixels a side."""

    def batch(split: str, index: Int[Tensor, "n"]) -> tuple[Tensor, Tensor]:
        pictures, labels = fashion("train" if split == "train" else "test")
        enlarged = F.interpolate(pictures[index], (side, side), mode="bilinear", align_corners=False)
        return enlarged[:, :, None].expand(-1, 3, -1, -1, -1), labels[index]

    return batch


class PlainViT(nn.Module):
    """The ViT that others are measured against, of pixels [b 3 1 h w] in [0, 1].

    Args:
        side: pixels of height and width.
        patch: pixels a side.
        dim: channels.
        depth: blocks.
        heads: that divide the channels.
        classes: of the head.
    """

    def __init__(self, side: int, patch: int, dim: int, depth: int, heads: int, classes: int = 10) -> None:
        super().__init__()
        sizes = {"img_size": side, "patch_size": patch, "embed_dim": dim, "depth": depth}
        self.vit = small_vit(**sizes, num_heads=heads, num_classes=classes)

    def classify(self, pictures: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b k"]:
        """Logits of pictures, normalised as the backbones do."""
        mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, DEVIATION))
        return self.vit((pictures[:, :, 0] - mean) / deviation)


def of_features(model: Any) -> Naming:
    """Logits of a backbone whose `classify` takes features."""
    return lambda inputs: model.classify(model(inputs))


def learn(
    model: nn.Module, naming: Naming, batch: Batch, steps: int, seed: int, rate: float = 2e-3
) -> list[float]:
    """Train by AdamW with a short warm-up and linear decay; the loss of every step.

    Args:
        model: whose parameters learn, and which is left in evaluation.
        naming: its logits of inputs.
        batch: that gives pictures and labels.
        steps: of `BATCH` pictures.
        seed: of their order.
        rate: at its highest.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, rate, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 40) * (1 - step / steps)
        inputs, labels = batch("train", torch.randint(TRAINING, (BATCH,), generator=generator))
        loss = F.cross_entropy(naming(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def judged(naming: Naming, batch: Batch, count: int, part: int = 100) -> tuple[float, float]:
    """Share of the first test pictures that are named rightly, and the mean cross-entropy."""
    right, lost = 0, 0.0
    for start in range(0, count, part):
        inputs, labels = batch("test", torch.arange(start, min(start + part, count)))
        found = naming(inputs)
        right += int((found.argmax(-1) == labels).sum())
        lost += F.cross_entropy(found, labels, reduction="sum").item()
    return right / count, lost / count


def right(naming: Naming, batch: Batch, count: int) -> float:
    """Share of the first test pictures that are named rightly."""
    return judged(naming, batch, count)[0]


def mean(rows: Sequence[Mapping[str, Any]], number: str, **which: Any) -> float:
    """Mean of a number over the rows that are so."""
    found = [row[number] for row in rows if all(row.get(name) == value for name, value in which.items())]
    return sum(found) / len(found)


def exponent(sizes: Sequence[float | int], costs: Sequence[float | int]) -> float:
    """Power of the size by which a cost grows: the slope of a line through their logarithms."""
    x, y = (torch.tensor([math.log(number) for number in numbers]) for numbers in (sizes, costs))
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def bars(axes: Any, values: Mapping[str, float], label: str) -> None:
    """A bar of every contender, the first on top."""
    drawn = axes.barh(list(values), list(values.values()))
    axes.bar_label(drawn, fmt="%.3f", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.margins(x=0.15)
