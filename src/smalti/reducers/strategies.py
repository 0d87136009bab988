"""What is done with a judgement: prune, fuse, merge, cluster, transform, pool, resample.

```
tokens, Judgement(scores, group), count ──► strategy ──► Reduction

prune      the best stay                             Gather
fuse       the best stay, one token holds the rest   Assign
merge      the rest joins the most similar of these  Assign
cluster    k-means around these                      Assign
pool       runs of neighbours on the grid            Assign
transform  every token is shared out among these     Dense
resample   each of these asks all                    Dense
```
All but pruning keep the mass: what leaves goes somewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest
from smalti.nn import clustering
from smalti.nn.order import descending
from smalti.reducers.base import Context
from smalti.reducers.criteria import Judgement, features
from smalti.reducers.reduction import Assign, Dense, Gather, Reduction

Strategy = Callable[[Float[Tensor, "b n d"], Judgement, int, Context], Reduction]
STRATEGIES: dict[str, Strategy] = {}
TEMPERATURE = 0.1  # of cosines


def strategy(function: Strategy) -> Strategy:
    """Register a strategy under its function's name."""
    STRATEGIES[function.__name__] = function
    return function


def strategy_of(name: str) -> Strategy:
    """The strategy of that name."""
    if name not in STRATEGIES:
        raise ConfigError(f"no strategy {name!r}: {nearest(name, STRATEGIES)}")
    return STRATEGIES[name]


def best(scores: Float[Tensor, "b n"], count: int) -> Int[Tensor, "b k"]:
    """Positions of the highest scores, in rising order; of equal ones the first."""
    return descending(scores)[:, :count].sort(-1).values


@strategy
def prune(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """The best stay, the others go."""
    return Gather(tokens.shape[1], best(judgement.scores, count), context.mass)


@strategy
def fuse(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """The best but one stay; the last token is the mean of all others (EViT, Liang et al., 2022)."""
    kept = best(judgement.scores, count - 1)
    rest = torch.full(tokens.shape[:2], count - 1, device=tokens.device)
    own = torch.arange(count - 1, device=tokens.device).expand_as(kept)
    return Assign(rest.scatter(1, kept, own), count, context.mass)


@strategy
def merge(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """Every token joins the group it was judged to belong to, or the most similar of the best."""
    group = judgement.group
    if group is None:
        kept = best(judgement.scores, count)
        compared = features(tokens, context).float()
        group = clustering.nearest(compared, clustering.take(compared, kept), cosine=True)
        group = group.scatter(1, kept, torch.arange(count, device=tokens.device).expand_as(kept))
    return Assign(group, count, context.mass)


@strategy
def cluster(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """k-means from the best, which stay in groups of their own."""
    start = best(judgement.scores, count)
    return Assign(
        clustering.k_means(features(tokens, context).float(), start, context.mass), count, context.mass
    )


@strategy
def pool(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """Blocks of the grid, as square as the count allows, else runs of tokens; scores do not matter.

    Raises:
        ConfigError: the tokens do not lie on the grid that the context gives.
    """
    size = tokens.shape[1]
    t, h, w = context.grid or (1, 1, size)
    if t * h * w != size:
        raise ConfigError(f"{size} tokens do not lie on a grid of {t}×{h}×{w}")
    sides = [(r, count // (t * r)) for r in range(1, h + 1) if count % (t * r) == 0 and count <= t * r * w]
    if sides:
        rows, columns = min(sides, key=lambda side: abs(math.log(h * side[1] / (w * side[0]))))
        frame, row, column = torch.meshgrid(
            *(torch.arange(n, device=tokens.device) for n in (t, h, w)), indexing="ij"
        )
        group = ((frame * rows + row * rows // h) * columns + column * columns // w).flatten()
    else:
        group = torch.arange(size, device=tokens.device) * count // size
    return Assign(group.expand(tokens.shape[0], -1), count, context.mass)


@strategy
def transform(
    tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context
) -> Reduction:
    """Every token is shared out among the best by their cosines, so that nothing is lost."""
    compared = F.normalize(features(tokens, context).float(), dim=-1)
    basis = clustering.take(compared, best(judgement.scores, count))
    shares = (basis @ compared.mT / TEMPERATURE).softmax(1)
    weighted = shares * context.weights(tokens)[:, None]
    return Dense(weighted / weighted.sum(-1, keepdim=True), context.mass, shares.mT)


@strategy
def resample(tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context) -> Reduction:
    """The best are queries that attend to all tokens, as a resampler's learned queries do."""
    compared = F.normalize(features(tokens, context).float(), dim=-1)
    queries = clustering.take(compared, best(judgement.scores, count))
    logits = queries @ compared.mT / TEMPERATURE + context.weights(tokens).log()[:, None]
    return Dense(logits.softmax(-1), context.mass)
