"""ToMe: the most similar pairs of tokens become one, in every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn import clustering
from smalti.nn.order import descending
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Assign, Reduction
from smalti.registry import Official, Paper, system

SPLITS = ("alternate", "kth", "random")


@dataclass(frozen=True)
class ToMeConfig:
    """Attributes:
    metric: what tokens are compared by: the attention's "keys" (mean over heads), or the "tokens" themselves.
    split: which tokens may be merged into which: "alternate" even into odd positions; "kth": all into every
        k-th one, where k follows from the count; "random": drawn ones into all others.
    distilled: a distillation token stands behind the class token.
    proportional: attention to a token grows with its mass; off for MAE models off the shelf.
    seed: of the random split.
    """

    metric: Literal["keys", "tokens"] = "keys"
    split: Literal["alternate", "kth", "random"] = "alternate"
    distilled: bool = False
    proportional: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"no split {self.split!r}: choose one of {', '.join(SPLITS)}")


@system(
    "tome",
    room="reducers",
    paper=Paper("Token Merging: Your ViT But Faster", 2023, "https://arxiv.org/abs/2210.09461"),
    official=Official("facebookresearch/ToMe", "CC-BY-NC-4.0"),
    presets={"default": ToMeConfig()},
    tags=("training-free", "merge", "similarity", "image", "video"),
)
class ToMe(Reducer):
    """Token Merging (Bolya et al., 2023): bipartite matching on keys, weighted means, proportional attention.

    ```
    keys [b n d] ─► length 1 ─┬─ even ─┐
                              └─ odd ──┴─► cosines ─► best odd of every even ─► the r best pairs become one
    tokens out: even ones that are left (in their order behind a class token), then all odd ones
    ```
    Sits between attention and MLP of every block; at most half of the tokens leave at once. The class token and
    a distillation token are never merged. Written from the paper's description alone. Deviation: equal scores
    are broken by position, so that every machine gives the same.

    Raises:
        ConfigError: fewer than half of the tokens asked for.
    """

    place = "inside"
    gradual = True

    def __init__(self, config: ToMeConfig | None = None) -> None:
        super().__init__()
        self.config = config or ToMeConfig()
        self.proportional = self.config.proportional

    def least(self, tokens: int, protected: int) -> int:
        """Half of the tokens that may be merged, and all protected ones."""
        return tokens - (tokens - protected) // 2

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        size = tokens.shape[1]
        least = self.least(size, context.protected)
        count = least if count is None else count
        metric = tokens if self.config.metric == "tokens" or context.keys is None else context.keys()
        metric = F.normalize(metric.float(), dim=-1)
        if self.config.split == "kth":
            return Assign(_kth_groups(metric, count), count, context.mass)
        if count < least:
            raise ConfigError(f"one step merges {size} tokens into {least} at least, not {count}")
        sources, targets = self._split(size, context)
        group = _matched(metric, sources, targets, size - count, context.protected, self.config.distilled)
        return Assign(group, count, context.mass)

    def _split(self, size: int, context: Context) -> tuple[Int[Tensor, "s"], Int[Tensor, "t"]]:
        if self.config.split == "alternate":
            return torch.arange(0, size, 2), torch.arange(1, size, 2)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + context.layer)
        drawn = torch.randperm(size - context.protected, generator=generator) + context.protected
        half = (size - context.protected) // 2
        front = torch.arange(context.protected)
        return torch.cat([front, drawn[:half]]), drawn[half:]


def _matched(
    metric: Float[Tensor, "b n d"],
    sources: Int[Tensor, "s"],
    targets: Int[Tensor, "t"],
    removed: int,
    protected: int,
    distilled: bool,
) -> Int[Tensor, "b n"]:
    """The group of every token after the `removed` best pairs are joined.

    Kept sources come first: by position behind a class token, by rising similarity where there is none; then all
    targets. A distillation token, first of the targets, moves up to the second place.
    """
    sources, targets = sources.to(metric.device), targets.to(metric.device)
    compared = metric[:, targets]
    cosine = metric[:, sources] @ compared.mT
    if distilled:
        cosine = cosine.masked_fill(targets == 1, -torch.inf)
    score, partner = cosine.max(-1)
    score = score.masked_fill(sources < protected, -torch.inf)
    order = descending(score)
    joined, kept = order[:, :removed], order[:, removed:]
    if protected:
        kept = kept.sort(-1).values
    place = torch.arange(kept.shape[1], device=metric.device)
    other = torch.arange(len(targets), device=metric.device) + kept.shape[1]
    if distilled:
        place = torch.where(place > 0, place + 1, place)
        other = torch.where(targets == 1, 1, other)
    group = torch.zeros(metric.shape[:2], dtype=torch.int64, device=metric.device)
    group = group.scatter(1, targets.expand(metric.shape[0], -1), other.expand(metric.shape[0], -1))
    group = group.scatter(1, sources[kept], place.expand_as(kept))
    return group.scatter(1, sources[joined], other[partner.gather(1, joined)])


def _kth_groups(metric: Float[Tensor, "b n d"], count: int) -> Int[Tensor, "b n"]:
    """Every k-th token is a group that all others may join; the n mod k last tokens are dropped."""
    size = metric.shape[1]
    step = size // count
    whole = step * count
    targets = torch.arange(step - 1, whole, step, device=metric.device)
    group = clustering.nearest(metric, metric[:, targets], cosine=True)
    group[:, targets] = torch.arange(count, device=metric.device)
    group[:, whole:] = -1
    return group
