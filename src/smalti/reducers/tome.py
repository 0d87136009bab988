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
from smalti.reducers.reduction import Assign, Reduction, identity, protect
from smalti.registry import Official, Paper, system

SPLITS = ("alternate", "kth", "random")


@dataclass(frozen=True)
class ToMeConfig:
    """Attributes:
    metric: what tokens are compared by: the attention's "keys" (mean over heads), the "tokens" themselves, or
        "random" numbers, which pairs them by chance.
    split: which tokens may be merged into which: "alternate" even into odd positions; "kth": all into every
        k-th one, where k follows from the count; "random": drawn ones into all others.
    proportional: attention to a token grows with its mass; off for MAE models off the shelf.
    seed: of the random split.
    """

    metric: Literal["keys", "tokens", "random"] = "keys"
    split: Literal["alternate", "kth", "random"] = "alternate"
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
    tokens out: protected ones, even ones that are left (in their order behind a class token), all odd ones
    ```
    Sits between attention and MLP of every block; at most half of the tokens leave at once. Protected tokens,
    such as a class and a distillation token, neither merge nor are merged into. Written from the paper's
    description alone. Deviation: equal scores are broken by position, so that every machine gives the same.

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
        size, front = tokens.shape[1], context.protected
        least = self.least(size, front)
        count = least if count is None else count
        if count == size:
            return identity(tokens, context.mass)
        metric = tokens if self.config.metric == "tokens" or context.keys is None else context.keys()
        metric = F.normalize(metric[:, front:].float(), dim=-1)
        if self.config.split == "kth" and count > front:
            group = _kth_groups(metric, count - front)
        elif count >= least:
            sources, targets = self._split(size, size - count, context)
            group = _matched(metric, sources, targets, size - count, in_order=front > 0)
        else:
            raise ConfigError(f"one step merges {size} tokens into {least} at least, not {count}")
        return protect(Assign(group, count - front), front, context.mass)

    def _split(self, size: int, removed: int, context: Context) -> tuple[Int[Tensor, "s"], Int[Tensor, "t"]]:
        """Tokens that may be merged and those they may be merged into, counted behind the protected ones."""
        place = torch.arange(size - context.protected)
        if self.config.split == "alternate":
            first = context.protected % 2
            return place[first::2], place[1 - first :: 2]
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + context.layer)
        drawn = torch.randperm(len(place), generator=generator)
        return drawn[:removed], drawn[removed:].sort().values


def _matched(
    metric: Float[Tensor, "b n d"],
    sources: Int[Tensor, "s"],
    targets: Int[Tensor, "t"],
    removed: int,
    in_order: bool,
) -> Int[Tensor, "b n"]:
    """The group of every token after the `removed` best pairs are joined.

    Sources that are left come first, by position or by falling similarity; then all targets.
    """
    sources, targets = sources.to(metric.device), targets.to(metric.device)
    score, partner = clustering.best_pairs(metric[:, sources], metric[:, targets])
    order = descending(score)
    joined, kept = order[:, :removed], order[:, removed:]
    if in_order:
        kept = kept.sort(-1).values
    place = torch.arange(kept.shape[1], device=metric.device).expand_as(kept)
    other = torch.arange(targets.shape[0], device=metric.device) + kept.shape[1]
    group = torch.zeros(metric.shape[:2], dtype=torch.int64, device=metric.device)
    group = group.scatter(1, targets.expand(metric.shape[0], -1), other.expand(metric.shape[0], -1))
    group = group.scatter(1, sources[kept], place)
    return group.scatter(1, sources[joined], other[partner.gather(1, joined)])


def _kth_groups(metric: Float[Tensor, "b n d"], count: int) -> Int[Tensor, "b n"]:
    """Every k-th token is a group that all others may join; the n mod k last tokens are dropped.

    Counts that are not n // k of any k drop none: their groups lie as evenly as can be.
    """
    size = metric.shape[1]
    step = size // count
    whole = step * count if size // step == count else size
    targets = (torch.arange(count, device=metric.device) + 1) * whole // count - 1
    group = clustering.nearest(metric, metric[:, targets], cosine=True)
    group[:, targets] = torch.arange(count, device=metric.device)
    group[:, whole:] = -1
    return group
