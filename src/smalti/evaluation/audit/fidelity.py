"""How much of the full model's answer is left: features, neighbours, classes, and the score of a task.

All features are [n d], one row a picture; cosines need no scale, so none of these measures does.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 5
RIDGE = 0.1  # of the number of samples


def cosine(full: Float[Tensor, "*n d"], reduced: Float[Tensor, "*n d"]) -> float:
    """Mean cosine of rows that belong together."""
    return F.cosine_similarity(full.double(), reduced.double(), dim=-1).mean().item()


def cka(full: Float[Tensor, "n d"], reduced: Float[Tensor, "n e"]) -> float:
    """Linear centred kernel alignment, in [0, 1]; NaN where either has no spread.

    "Similarity of Neural Network Representations Revisited", 2019.
    """
    a, b = (x.double() - x.double().mean(0) for x in (full, reduced))
    scale = (a.mT @ a).norm() * (b.mT @ b).norm()
    return ((a.mT @ b).square().sum() / scale).item() if scale > 0 else math.nan


def nearest_other(features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
    """The most similar other picture of every picture."""
    return _likeness(features, features).fill_diagonal_(-torch.inf).argmax(1)


def agreement(full: Int[Tensor, "n"], reduced: Int[Tensor, "n"]) -> float:
    """Share of pictures whose class or neighbour is the same."""
    return (full == reduced).double().mean().item()


def neighbour_accuracy(
    features: Float[Tensor, "n d"], labels: Int[Tensor, "n"], k: int = NEIGHBOURS
) -> float:
    """Share of pictures that their k most similar other ones name rightly, each voting by its cosine."""
    likeness = _likeness(features, features).fill_diagonal_(-torch.inf)
    near, index = likeness.topk(min(k, len(features) - 1), 1)
    votes = torch.zeros(len(features), int(labels.max()) + 1, dtype=near.dtype, device=near.device)
    votes = votes.scatter_add(1, labels[index], near + 1)  # no cosine counts against its own class
    return (votes.argmax(1) == labels).double().mean().item()


class Probe:
    """A linear classifier on the full model's features, as stands on a model that is reduced afterwards.

    Ridge regression to one-hot labels on every second picture of each class.

    Args:
        features: of the full model.
        labels: class of every picture.
    """

    def __init__(self, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> None:
        self.labels, self.taught = labels, _every_second(labels)
        x = features[self.taught].double()
        self.mean, self.spread = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        x = (x - self.mean) / self.spread
        y = F.one_hot(labels[self.taught], int(labels.max()) + 1).double()
        self.bias = y.mean(0)
        penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        self.weight = torch.linalg.solve(x.mT @ x + penalty, x.mT @ (y - self.bias))

    def accuracy(self, features: Float[Tensor, "n d"]) -> float:
        """Share of the other pictures that are named rightly; NaN where there are none."""
        x = (features[~self.taught].double() - self.mean) / self.spread
        named = (x @ self.weight + self.bias).argmax(1)
        return (named == self.labels[~self.taught]).double().mean().item()


def _every_second(labels: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    seen = F.one_hot(labels).cumsum(0).gather(1, labels[:, None]).squeeze(1)
    return seen % 2 == 1


def _likeness(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).mT
