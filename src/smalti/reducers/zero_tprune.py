"""Zero-TPrune: tokens are pruned by PageRank on the attention graph and by similarity, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError, nearest
from smalti.nn import clustering, pagerank
from smalti.nn.likeness import METRICS, PARTITIONS, comparable, dissimilar
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Gather, Reduction
from smalti.reducers.strategies import best
from smalti.registry import Paper, system

ORDERS = ("I'-S-I", "I-S", "I", "S")


@dataclass(frozen=True)
class ZeroTPruneConfig:
    """Attributes:
    layers: blocks after which tokens leave, from 0, in a host of `depth` blocks.
    retention: share of the tokens before each of these that importance leaves.
    similar: tokens that similarity takes away at each of these.
    iterations: rounds of PageRank at each of these.
    depth: blocks of the host that `layers` speaks of; they are stretched over another depth.
    similar_share: share of what leaves that similarity takes, wherever a count is asked that is not this
        configuration's own.
    order: importance alone, similarity alone, importance first, or similarity first after a short ranking.
    ranking_iterations: rounds of that short ranking.
    partition: which tokens (by importance) may leave for being like which: the lower half for the upper,
        the upper for the lower, every second for those between, a drawn half, or each for any above it.
    metric: of similarity.
    feature: what is compared: the attention's "keys" (mean over heads), or the "tokens" after the block.
    heads: how heads are merged.
    variance: range of a head's variance within which it counts; none: all count.
    variance_of: what that is the variance of: scores whose mean is 1 ("shares × n"), or whose sum is
        ("shares").
    tolerance: PageRank stops where scores move no more than this.
    class_vote: protected tokens start with √n times the importance of others.
    seed: of the drawn partition.
    """

    layers: tuple[int, ...] = (0, 2, 5, 8, 10)
    retention: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 1.0)
    similar: tuple[int, ...] = (10, 10, 10, 10, 10)
    iterations: tuple[int, ...] = (30, 5, 5, 1, 1)
    depth: int = 12
    similar_share: float = 0.35
    order: str = "I'-S-I"
    ranking_iterations: int = 1
    partition: str = "sequential"
    metric: str = "cosine"
    feature: Literal["keys", "tokens"] = "keys"
    heads: Literal["rms", "mean"] = "rms"
    variance: tuple[float, float] | None = (0.01, 0.7)
    variance_of: Literal["shares × n", "shares"] = "shares × n"
    tolerance: float = 0.0
    class_vote: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field, choices in (("order", ORDERS), ("partition", PARTITIONS), ("metric", METRICS)):
            given = getattr(self, field)
            if given not in choices:
                raise ConfigError(f"no {field} {given!r}: {nearest(given, choices)}")
        lengths = {len(self.layers), len(self.retention), len(self.similar), len(self.iterations)}
        if lengths != {len(self.layers)} or not self.layers:
            raise ConfigError(
                "layers, retention, similar and iterations need one entry for every pruning layer"
            )
        if (
            list(self.layers) != sorted(set(self.layers))
            or self.layers[0] < 0
            or self.layers[-1] >= self.depth
        ):
            raise ConfigError(f"layers {self.layers} must rise within 0 to {self.depth - 1}")
        if not all(0 < share <= 1 for share in self.retention):
            raise ConfigError(f"retention must lie in (0, 1], not {self.retention}")
        if min(self.similar) < 0 or min(self.iterations) < 1 or self.ranking_iterations < 1:
            raise ConfigError("similar cannot be negative, and PageRank needs at least one iteration")
        if not 0 <= self.similar_share <= 1:
            raise ConfigError(f"similar_share must lie in [0, 1], not {self.similar_share}")


SMALL = ZeroTPruneConfig()


@system(
    "zero-tprune",
    room="reducers",
    paper=Paper(
        "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained "
        "Transformers",
        2024,
        "https://arxiv.org/abs/2305.17328",
    ),
    presets={
        "deit-small": SMALL,
        "deit-small-384": ZeroTPruneConfig(similar=(40,) * 5),
        "deit-small-uniform": ZeroTPruneConfig(retention=(0.91,) * 5, iterations=(5,) * 5),
    },
    tags=("training-free", "prune", "attention", "similarity", "image"),
    status="reconstruction",
)
class ZeroTPrune(Reducer):
    """Zero-TPrune (Wang, Dedhia & Jha, 2024): PageRank on attention, and similarity guided by it.

    ```
    attention [b h n n] ─► short PageRank ─► rank ─► S: of the lower half, those most like the upper leave
                     └─► graph of the rest, rows normalised ─► I: PageRank ─► the best stay ─► Gather
    ```
    Sits after a block and uses its attention (the class token's included) and keys. What leaves is pruned,
    not merged. Heads are merged by root mean square, without those whose scores vary too little or too much.
    The class token votes and always stays. Nothing is learned.

    `counts` gives the schedule of the configuration: after a pruning layer round(retention · n) − similar
    tokens are left of n, which makes 3.06 GFLOPs of DeiT-S's 4.6. Asked for another count, similarity takes
    `similar_share` of what leaves and importance the rest.

    Open in the source: what variance the head filter speaks of (`variance_of`: with shares that sum to 1 no
    head of 197 tokens reaches 0.01), and the retention of "deit-small-uniform", chosen here to cost about the
    same. In "none", a token may leave only for one above it, so that one of two equal tokens stays.

    Raises:
        ConfigError: similarity alone is asked to remove more than it may compare.
        UnsupportedError: the context has no attention map.
    """

    def __init__(self, config: ZeroTPruneConfig | None = None) -> None:
        super().__init__()
        self.config = config or SMALL

    def layers(self, depth: int) -> tuple[int, ...]:
        """The configuration's, stretched over `depth` blocks; never the last: nothing is saved behind it."""
        if depth == self.config.depth:
            return self.config.layers
        stretched = (-(-(layer + 1) * depth // self.config.depth) - 1 for layer in self.config.layers)
        return tuple(sorted({min(layer, max(depth - 2, 0)) for layer in stretched}))

    def least(self, tokens: int, protected: int) -> int:
        """All protected ones; where only similarity prunes, also those that are only compared with."""
        if self.config.order == "S":
            return max(tokens - comparable(tokens - protected, self.config.partition), 1)
        return max(protected, 1)

    def counts(self, tokens: int, depth: int, protected: int) -> tuple[int, ...]:
        """Tokens left after every block, by this configuration's own schedule.

        Args:
            tokens: before the first block, protected ones included.
            depth: blocks of the host.
            protected: tokens in front that always stay.
        """
        where = self.layers(depth)
        left = []
        for layer in range(depth):
            if layer in where:
                position = where.index(layer) * len(self.config.layers) // len(where)
                tokens = self._own(tokens, protected, position)[0]
            left.append(tokens)
        return tuple(left)

    def prune(
        self,
        tokens: Float[Tensor, "b n d"],
        attention: Float[Tensor, "b h n n"],
        features: Float[Tensor, "b n f"],
        count: int,
        similar: int,
        iterations: int,
        protected: int = 1,
        layer: int = 0,
    ) -> tuple[Float[Tensor, "b m d"], Int[Tensor, "b m"], Float[Tensor, "b m"]]:
        """One pruning step with everything given.

        Args:
            tokens: protected ones in front.
            attention: of every head after its softmax.
            features: what similarity compares, of any source: keys, queries, values, input, middle or output.
            count: tokens to leave, the protected ones included.
            similar: how many of the others leave for being similar.
            iterations: rounds of PageRank.
            protected: tokens in front that always stay.
            layer: number of the block, for the drawn partition.

        Returns:
            The tokens that stay, their positions in rising order, and their importance by the last PageRank.
        """
        size = tokens.shape[1]
        everything = torch.arange(size, device=tokens.device).expand(len(tokens), -1)

        def without_similar(index: Int[Tensor, "b k"], scores: Float[Tensor, "b k"]) -> Int[Tensor, "b l"]:
            chosen = clustering.take(features.float(), index[:, protected:])
            rest = dissimilar(
                chosen,
                scores[:, protected:],
                similar,
                partition=self.config.partition,
                metric=self.config.metric,
                seed=self.config.seed * 1_000_003 + layer,
            )
            return _behind(index, rest, protected)

        if self.config.order in ("I", "I-S"):
            scores = self.importance(attention, iterations, protected)
            kept = _behind(everything, best(scores[:, protected:], count + similar - protected), protected)
            if similar:
                kept = without_similar(kept, scores.gather(1, kept))
        else:
            scores = self.importance(attention, self.config.ranking_iterations, protected)
            kept = without_similar(everything, scores) if similar else everything
            if kept.shape[1] > count:
                rest = self.importance(pagerank.subgraph(attention, kept), iterations, protected)
                scores = torch.zeros_like(scores).scatter(1, kept, rest)
                kept = _behind(kept, best(rest[:, protected:], count - protected), protected)
        return clustering.take(tokens, kept), kept, scores.gather(1, kept)

    def importance(
        self, attention: Float[Tensor, "b h n n"], iterations: int, protected: int = 0
    ) -> Float[Tensor, "b n"]:
        """PageRank of every token, over the heads that count."""
        size = attention.shape[-1]
        start = torch.ones(size, device=attention.device)
        if self.config.class_vote:
            start[:protected] = size**0.5
        shares = pagerank.vote(attention, iterations, start / start.sum(), self.config.tolerance)
        scaled = shares * size if self.config.variance_of == "shares × n" else shares
        merged = pagerank.over_heads(scaled, mean=self.config.heads, variance=self.config.variance)
        return merged / size if self.config.variance_of == "shares × n" else merged

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        size, front = tokens.shape[1], context.protected
        position = max([p for p, layer in enumerate(self.config.layers) if layer <= context.layer], default=0)
        own, similar = self._own(size, front, position)
        if count is None and context.layer not in self.config.layers:
            count = size
        if count is None:
            count = own
        elif count != own or context.layer not in self.config.layers:
            similar = self._share(size, front, size - count)
        use_keys = self.config.feature == "keys" and context.keys is not None
        features = context.keys() if use_keys and context.keys is not None else tokens
        attention = context.asked("attention_map")()
        index = self.prune(
            tokens,
            attention,
            features,
            count,
            similar,
            self.config.iterations[position],
            front,
            context.layer,
        )[1]
        return Gather(size, index, context.mass)

    def _own(self, tokens: int, protected: int, position: int) -> tuple[int, int]:
        """Tokens left at a pruning layer, and how many of those that leave do so for being similar."""
        body = tokens - protected
        similar = 0 if self.config.order == "I" else self.config.similar[position]
        retained = 1.0 if self.config.order == "S" else self.config.retention[position]
        similar = min(similar, comparable(body, self.config.partition))
        left = max(round(retained * tokens) - similar, self.least(tokens, protected), 1)
        return left, min(similar, self._limit(body, tokens - left), tokens - left)

    def _share(self, tokens: int, protected: int, removed: int) -> int:
        if self.config.order == "I":
            return 0
        body = tokens - protected
        most = comparable(body, self.config.partition)
        if self.config.order == "S":
            if removed > most:
                raise ConfigError(
                    f"similarity alone can remove {most} of {body} tokens, not {removed}: "
                    'ask for more tokens or use the order "I\'-S-I"'
                )
            return removed
        return min(round(self.config.similar_share * removed), self._limit(body, removed))

    def _limit(self, body: int, removed: int) -> int:
        """Most tokens that may leave for being similar when so many leave in all."""
        if self.config.order == "I-S":  # compares only those that importance left
            return max(
                s for s in range(removed + 1) if s <= comparable(body - removed + s, self.config.partition)
            )
        return min(comparable(body, self.config.partition), removed)


def _behind(index: Int[Tensor, "b k"], chosen: Int[Tensor, "b l"], protected: int) -> Int[Tensor, "b m"]:
    """The protected entries of an index and some of those behind."""
    return torch.cat([index[:, :protected], index[:, protected:].gather(1, chosen)], 1)
