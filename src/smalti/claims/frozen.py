"""A real ViT that nobody trained for fewer tokens, and a linear head on its class token.

```
clothes on clutter [n 3 168 168] ─► DINOv2-small, blocks 1 to 8 ─► class token ─► least squares ─► label
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.claims.base import Lab
from smalti.claims.material import clothes, small_vit
from smalti.evaluation.pretrained import load_model

DEPTH = 8  # later blocks were tuned for saliency
TAUGHT = 300


@dataclass(frozen=True)
class Frozen:
    """Attributes:
    model: gives class tokens.
    side: pixels a side.
    head: weights and bias of the classes, learned on tokens of the unreduced model.
    """

    model: nn.Module
    side: int
    head: Float[Tensor, "d k"]

    def pictures(
        self, split: str, first: int, count: int
    ) -> tuple[Float[Tensor, "n 3 s s"], Int[Tensor, "n"]]:
        """Pictures as the model takes them, and their labels."""
        return _pictures(self.side, split, first, count)

    def accuracy(self, tokens: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> float:
        """Share of pictures that the head names rightly."""
        return (self.name(tokens) == labels).float().mean().item()

    def name(self, tokens: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """The labels that the head finds."""
        return (_with_one(tokens) @ self.head).argmax(-1)


def frozen_vit(lab: Lab) -> Frozen:
    """DINOv2-small's first blocks with a head taught on training pictures; quickly, any ViT."""
    model = small_vit(num_classes=0).eval() if lab.quick else load_model("dinov2-small", depth=DEPTH)
    side = 48 if lab.quick else 168
    pictures, labels = _pictures(side, "train", 0, lab.some(TAUGHT, 20))
    x = _with_one(class_tokens(model, pictures)).double()
    square = x.T @ x / len(x)
    square += 1e-2 * square.diagonal().mean() * torch.eye(len(square))
    wanted = F.one_hot(labels, 10).double()
    return Frozen(model, side, torch.linalg.solve(square, x.T @ wanted / len(x)).float())


@torch.no_grad()
def class_tokens(
    model: nn.Module, pictures: Float[Tensor, "n 3 s s"], batch: int = 10
) -> Float[Tensor, "n d"]:
    """The model's answers, a few pictures at a time."""
    return torch.cat([model(part) for part in pictures.split(batch)])


def drift(whole: Float[Tensor, "n d"], reduced: Float[Tensor, "n d"]) -> float:
    """How far class tokens turned from the unreduced model's: 1 less their cosine, in the mean."""
    return 1 - F.cosine_similarity(whole, reduced).mean().item()


def _pictures(side: int, split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
    pictures, labels, _ = clothes(split, torch.arange(first, first + count))
    return F.interpolate(pictures * 4, (side, side), mode="bilinear", align_corners=False), labels


def _with_one(x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
    return torch.cat([x, torch.ones(len(x), 1)], 1)
