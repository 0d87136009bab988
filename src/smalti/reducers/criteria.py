"""Which tokens matter, or belong together: the criteria that strategies act on.

```
tokens [b n d], Context, count ──► criterion ──► Judgement(scores [b n], group [b n] or none)
```
A criterion either scores tokens or groups them; both give scores, so any criterion goes with any strategy.
The scores of one that groups put a token for every group first: its centre.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest
from smalti.nn import clustering, medoids
from smalti.nn.order import descending
from smalti.reducers.base import Context


@dataclass(frozen=True)
class Judgement:
    """What a criterion says of a batch of tokens.

    Attributes:
        scores: higher ones are kept.
        group: groups 0 … count-1, where the criterion groups.
    """

    scores: Float[Tensor, "b n"]
    group: Int[Tensor, "b n"] | None = None


class Criterion(ABC):
    """Scores or groups tokens. Options are fields of the dataclass.

    Attributes:
        name: the key, as in `composed(criterion=name)`.
        needs: what of the `Context` it cannot do without.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Judge tokens, of which none is protected, so that `count` can be left."""


C = TypeVar("C", bound=type[Criterion])
CRITERIA: dict[str, type[Criterion]] = {}


def criterion(cls: C) -> C:
    """Register a criterion under its name."""
    if cls.name in CRITERIA:
        raise ConfigError(f"criterion {cls.name!r} is registered twice")
    CRITERIA[cls.name] = cls
    return cls


def criterion_of(given: str | Criterion) -> Criterion:
    """The criterion of that name with its defaults, or the one given."""
    if isinstance(given, Criterion):
        return given
    if given not in CRITERIA:
        raise ConfigError(f"no criterion {given!r}: {nearest(given, CRITERIA)}")
    return CRITERIA[given]()


def features(tokens: Float[Tensor, "b n d"], context: Context) -> Float[Tensor, "b n f"]:
    """What tokens are compared by: their keys where a host gives them, else themselves."""
    return tokens if context.keys is None else context.keys()


def centred(centres: Int[Tensor, "b k"], group: Int[Tensor, "b n"]) -> Judgement:
    """The judgement of a criterion that groups: centres score 1, others 0."""
    return Judgement(torch.zeros(group.shape, device=group.device).scatter(1, centres, 1.0), group)


@criterion
@dataclass(frozen=True)
class Attention(Criterion):
    """Attention that a token receives, mean over heads: from the class token, all tokens or the last one."""

    name = "attention"
    needs = ("attention",)
    queries: str = "class"

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: shares of attention."""
        return Judgement(context.asked("attention")(self.queries).float())


@criterion
@dataclass(frozen=True)
class Gradient(Criterion):
    """|gradient · token|: by how much, to first order, a loss changes without the token."""

    name = "gradient"
    needs = ("gradient",)

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: estimated change of the loss."""
        gradient = context.asked("gradient")().float()
        return Judgement((gradient * tokens.float()).sum(-1).abs())


@criterion
@dataclass(frozen=True)
class Entropy(Criterion):
    """Entropy of what every token alone predicts: uncertain tokens are kept."""

    name = "entropy"
    needs = ("logits",)

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: nats."""
        shares = context.asked("logits")().float().softmax(-1)
        return Judgement(torch.special.entr(shares).sum(-1))


@criterion
@dataclass(frozen=True)
class Predictor(Criterion):
    """A learned score of every token: the context's `predictor`, trained by whoever gives it."""

    name = "predictor"
    needs = ("predictor",)

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: whatever the predictor gives."""
        return Judgement(context.asked("predictor")(tokens).float())


@criterion
@dataclass(frozen=True)
class Question(Criterion):
    """Cosine between a token and the embedding of a question, outliers clipped.

    Values beyond `fences` quartile ranges from the quartiles are clipped to them, so that a few artefacts do
    not rule (Tukey, 1977).
    """

    name = "question"
    needs = ("question",)
    fences: float = 1.5

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: clipped cosines."""
        question = F.normalize(context.asked("question").float(), dim=-1)
        cosine = (F.normalize(tokens.float(), dim=-1) @ question[..., None]).squeeze(-1)
        low, high = torch.quantile(cosine, torch.tensor([0.25, 0.75], device=cosine.device), dim=1)
        reach = self.fences * (high - low)
        return Judgement(cosine.clamp((low - reach)[:, None], (high + reach)[:, None]))


@criterion
@dataclass(frozen=True)
class Random(Criterion):
    """A seeded draw, the same for every sample of a batch and in every batch; another in every block."""

    name = "random"
    seed: int = 0

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: uniform in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + context.layer)
        scores = torch.rand(tokens.shape[1], generator=generator).to(tokens.device)
        return Judgement(scores.expand(tokens.shape[0], -1))


@criterion
@dataclass(frozen=True)
class Uniform(Criterion):
    """Every so-manieth token in order."""

    name = "uniform"

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: 1 at `count` evenly spaced positions."""
        size = tokens.shape[1]
        middle = (2 * torch.arange(count, device=tokens.device) + 1) * size // (2 * count)
        scores = torch.zeros(size, device=tokens.device).scatter(0, middle, 1.0)
        return Judgement(scores.expand(tokens.shape[0], -1))


@criterion
@dataclass(frozen=True)
class Diversity(Criterion):
    """Farthest points: each kept token is the one least like those kept before it."""

    name = "diversity"

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Scores: the earlier chosen, the higher."""
        compared = features(tokens, context).float()
        first = compared.square().sum(-1).argmax(-1)  # directions alone tie but for rounding
        chosen = clustering.farthest_points(F.normalize(compared, dim=-1), count, first)
        rank = torch.arange(count, 0, -1, device=tokens.device).float().expand_as(chosen)
        return Judgement(torch.zeros(tokens.shape[:2], device=tokens.device).scatter(1, chosen, rank))


@criterion
@dataclass(frozen=True)
class Bipartite(Criterion):
    """Pairs of similar tokens of two halves, by ToMe's matching, repeated until `count` groups are left."""

    name = "bipartite"

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Groups of tokens that were paired; centres are the first members."""
        compared = F.normalize(features(tokens, context).float(), dim=-1)
        group = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        size = tokens.shape[1]
        while size > count:
            paired = bipartite_groups(compared, max(count, size - size // 2))
            group = paired.gather(1, group)
            size = int(max(count, size - size // 2))
            ones = torch.ones(compared.shape[:2], device=compared.device)
            compared = F.normalize(clustering.means(compared, paired, size, ones)[0], dim=-1)
        return centred(first_members(group, count), group)


@criterion
@dataclass(frozen=True)
class KMeans(Criterion):
    """k-means from farthest points, so that it needs no chance."""

    name = "k-means"
    iterations: int = 10

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Groups; the centre is the member where k-means began."""
        compared = features(tokens, context).float()
        start = clustering.farthest_points(compared, count)
        group = clustering.k_means(compared, start, iterations=self.iterations)
        return centred(start, group)


@criterion
@dataclass(frozen=True)
class DensityPeaks(Criterion):
    """DPC-kNN (Du, Ding & Jia, 2016)."""

    name = "dpc-knn"
    neighbours: int = 5

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Groups around the tokens that are dense and far from denser ones."""
        compared = features(tokens, context).float()
        return centred(*clustering.density_peaks(compared, count, self.neighbours))


@criterion
@dataclass(frozen=True)
class KMedoids(Criterion):
    """k-medoids from farthest points; needs the whole distance matrix."""

    name = "k-medoids"
    iterations: int = 100

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Groups; centres are their medoids, each nearest to itself, also among equal tokens."""
        compared = features(tokens, context).float()
        return centred(*medoids.k_medoids(compared, count, iterations=self.iterations))


@criterion
@dataclass(frozen=True)
class Spectral(Criterion):
    """k-means on eigenvectors of a graph of similar tokens; needs the whole graph.

    The heat kernel's width is `sigma` times the mean distance.
    """

    name = "spectral"
    sigma: float = 0.5

    def judge(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Judgement:
        """Groups of the graph."""
        compared = features(tokens, context).float()
        distance = clustering.squared_distances(compared, compared)
        width = self.sigma**2 * distance.mean((1, 2), keepdim=True).clamp(min=1e-12)
        graph = (-distance / (2 * width)).exp()
        rows = clustering.spectral_features(graph, count)
        start = clustering.farthest_points(rows, count, graph.sum(-1).argmax(-1))
        return centred(start, clustering.k_means(rows, start))


def first_members(group: Int[Tensor, "b n"], count: int) -> Int[Tensor, "b k"]:
    """Position of the first token of every group."""
    position = torch.arange(group.shape[1], device=group.device).expand_as(group)
    size = torch.full((group.shape[0], count), group.shape[1] - 1, device=group.device)
    return size.scatter_reduce(1, group, position, "amin")


def bipartite_groups(compared: Float[Tensor, "b n d"], count: int) -> Int[Tensor, "b n"]:
    """Groups after the most similar pairs of even and odd positions are joined, in order of first members.

    Args:
        compared: features of length one.
        count: groups to leave, at least ⌈n / 2⌉.
    """
    size = compared.shape[1]
    even, odd = compared[:, ::2], compared[:, 1::2]
    score, partner = clustering.best_pairs(even, odd)
    joined = descending(score)[:, : size - count]
    root = torch.arange(size, device=compared.device).repeat(compared.shape[0], 1)
    root.scatter_(1, 2 * joined, 2 * partner.gather(1, joined) + 1)
    alive = torch.ones_like(root).scatter_(1, 2 * joined, 0)
    return (alive.cumsum(1) - 1).gather(1, root)
