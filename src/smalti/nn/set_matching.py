"""Losses of detectors that give a set: each true box is matched with one prediction (Carion et al., 2020).

```
person logits, boxes, action logits ─► Hungarian matching ─► cross-entropy, L1, generalised IoU, actions
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import missing_extra
from smalti.nn.boxes import generalised_iou


@dataclass(frozen=True)
class Target:
    """What is in one picture.

    Attributes:
        boxes: corners in pixels [n 4].
        actions: 1 for what each person does, else 0 [n k].
    """

    boxes: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Weights:
    """Of the parts of costs and losses, and of "nobody" among the classes; defaults are EVAD's."""

    person: float = 2.0
    boxes: float = 5.0
    overlap: float = 2.0
    actions: float = 12.0
    nobody: float = 0.1


def matched(
    person: Float[Tensor, "p 2"],
    boxes: Float[Tensor, "p 4"],
    target: Float[Tensor, "n 4"],
    size: Float[Tensor, "2"],
    weights: Weights,
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Predictions and true boxes, in pairs of least cost.

    Raises:
        UnsupportedError: scipy, which solves the assignment, is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise missing_extra("scipy", "train") from error
    with torch.no_grad():
        scale = size.repeat(2)
        cost = weights.boxes * (boxes[:, None] / scale - target[None] / scale).abs().sum(-1)
        cost = (
            cost
            - weights.person * person.softmax(-1)[:, :1]
            - weights.overlap * generalised_iou(boxes, target)
        )
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)


def detection_loss(
    person: Sequence[Float[Tensor, "b p 2"]],
    boxes: Sequence[Float[Tensor, "b p 4"]],
    actions: Sequence[Float[Tensor, "b p k"]],
    targets: Sequence[Target],
    size: Float[Tensor, "b 2"],
    weights: Weights | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Weighted losses, each summed over all steps: "person", "boxes", "overlap", "actions".

    Args:
        person: logits of person and nobody, after every step.
        boxes: corners in pixels, after every step.
        actions: logits after every block; all use the last step's matching.
        targets: of every picture.
        size: width and height of every picture.
        weights: of the parts.
    """
    weights = weights or Weights()
    count = max(sum(len(target.boxes) for target in targets), 1)
    zero = boxes[-1].sum() * 0
    parts = {"person": zero, "boxes": zero, "overlap": zero, "actions": zero}
    pairs = []
    for logits, places in zip(person, boxes, strict=True):
        pairs = [
            matched(p, b, t.boxes, s, weights)
            for p, b, t, s in zip(logits, places, targets, size, strict=True)
        ]
        label = torch.ones(logits.shape[:2], dtype=torch.int64, device=logits.device)
        for row, (chosen, _) in enumerate(pairs):
            label[row, chosen] = 0
        classes = logits.new_tensor([1.0, weights.nobody])
        entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), classes)
        parts["person"] = parts["person"] + weights.person * entropy
        for row, (chosen, true) in enumerate(pairs):
            ours, theirs = places[row, chosen], targets[row].boxes[true]
            distance = ((ours - theirs) / size[row].repeat(2)).abs().sum()
            overlap = 1 - generalised_iou(ours, theirs).diagonal()
            parts["boxes"] = parts["boxes"] + weights.boxes * distance / count
            parts["overlap"] = parts["overlap"] + weights.overlap * overlap.sum() / count
    true = torch.cat([t.actions[j] for t, (_, j) in zip(targets, pairs, strict=True)])
    for logits in actions if len(true) else ():
        given = torch.cat([row[i] for row, (i, _) in zip(logits, pairs, strict=True)])
        entropy = F.binary_cross_entropy_with_logits(given, true)
        parts["actions"] = parts["actions"] + weights.actions * entropy
    return parts
