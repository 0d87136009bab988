"""Token Transforming: every token is shared out among the informative ones, by one explicit matrix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest
from smalti.nn.clustering import take
from smalti.nn.sharing import mixtures, share_out
from smalti.reducers.base import Context, Reducer
from smalti.reducers.criteria import Attention, Criterion, Judgement, criterion_of, features
from smalti.reducers.reduction import Dense, Gather, Reduction, identity, protect
from smalti.reducers.strategies import best, strategy_of
from smalti.registry import Paper, system

Mode = Literal["many-to-many", "prune", "prune-fuse", "merge", "cluster"]
Basis = Literal["class", "all", "last", "uniform", "diversity"]


@dataclass(frozen=True)
class TokenTransformingConfig:
    """Attributes:
    mode: "many-to-many" is the method; the others are the special forms it is compared with: "prune" to the
        basis, "prune-fuse" with one more token of the rest by attention, "merge" each into its nearest of the
        basis, "cluster" by k-means from the basis.
    basis: the tokens that are left: those that receive most attention from the "class" token, from "all"
        (also for "class" where no token is protected) or from the "last"; or a "uniform" or "diversity" one.
    metric: what tokens are compared by: the attention's "keys" (mean over heads) or the "tokens" themselves.
    temperature: of cosines, above 0. The paper gives none. 0.01 rebuilds the tokens of DINOv2-small best at
        every depth and keep ratio tried; from 0.05 on, everything becomes the mean.
    most: of the basis, that one token is shared out among; all when 0.
    proportional: attention to a token grows with its mass.
    """

    mode: Mode = "many-to-many"
    basis: Basis = "class"
    metric: Literal["keys", "tokens"] = "keys"
    temperature: float = 0.01
    most: int = 0
    proportional: bool = True

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", get_args(Mode)),
            ("basis", get_args(Basis)),
            ("metric", ("keys", "tokens")),
        ):
            given = getattr(self, name)
            if given not in known:
                raise ConfigError(f"no {name} {given!r}: {nearest(given, known)}")
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature must be above 0, not {self.temperature}: mode='merge' is the limit towards 0"
            )
        if self.most < 0:
            raise ConfigError(f"most must be 0 for all of the basis, or above, not {self.most}")


@system(
    "token-transforming",
    room="reducers",
    paper=Paper(
        "Token Transforming: A Unified and Training-Free Token Compression Framework "
        "for Vision Transformer Acceleration",
        2025,
        "https://arxiv.org/abs/2506.05709",
    ),
    presets={"default": TokenTransformingConfig()},
    tags=("training-free", "transform", "attention", "image", "dense-prediction"),
    status="reconstruction",
)
class TokenTransforming(Reducer):
    """Token Transforming (Zeng et al., 2025): many-to-many reduction, each token shared out by cosines.

    ```
    attention received ─► the best m, in their order: basis ─┐
    keys [b n f] ────────────────────────────────────────────┴─► P = softmax over basis (cosine / temperature)
    apply(x) = W @ x, W = P · mass, rows normalised          mass = P @ mass          restore(y) = Pᵀ @ y
    ```
    Sits between attention and MLP of a few blocks: 4, 7 and 10 of 12, where a share of 0.7 each is sensible.
    Rows of W sum to 1; columns of P do, so no token is lost and masses sum to the source tokens'. No code was
    published: this is our reconstruction from the abstract and figures; similarity, temperature, basis and
    sparsity stay options. Every other reduction's W is its `matrix()`.

    Raises:
        UnsupportedError: the host gives no attention, and the basis needs it.
    """

    place = "inside"

    def __init__(self, config: TokenTransformingConfig | None = None) -> None:
        super().__init__()
        self.config = config or TokenTransformingConfig()
        self.proportional = self.config.proportional

    def layers(self, depth: int) -> tuple[int, ...]:
        """The first after each quarter but the last."""
        return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)}))

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        if count == front:
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        others, body = tokens[:, front:], context.behind(front)
        left = (others.shape[1] + 1) // 2 if count is None else count - front
        if self.config.metric == "tokens":
            body = dataclasses.replace(body, keys=None)
        judgement = self._criterion(front).judge(others, body, left)
        return protect(self._transformed(others, judgement, left, body), front, context.mass)

    def _criterion(self, protected: int) -> Criterion:
        basis = self.config.basis
        if basis in ("uniform", "diversity"):
            return criterion_of(basis)
        return Attention("all" if basis == "class" and not protected else basis)

    def _transformed(
        self, tokens: Float[Tensor, "b n d"], judgement: Judgement, count: int, context: Context
    ) -> Reduction:
        weight = context.weights(tokens)
        match self.config.mode:
            case "many-to-many":
                compared = features(tokens, context)
                shares = share_out(
                    compared,
                    take(compared, best(judgement.scores, count)),
                    temperature=self.config.temperature,
                    most=self.config.most,
                )
                return Dense(mixtures(shares, weight), context.mass, shares.mT)
            case "prune-fuse":
                return _fused(judgement.scores, weight, count)
            case mode:
                return strategy_of(mode)(tokens, judgement, count, context)


def _fused(scores: Float[Tensor, "b n"], weight: Float[Tensor, "b n"], count: int) -> Dense:
    """The best but one stay; the last is the mean of the others by scores (EViT, Liang et al., 2022)."""
    kept = best(scores, count - 1)
    own = torch.arange(count - 1, device=scores.device).expand_as(kept)
    group = torch.full(scores.shape, count - 1, device=scores.device).scatter(1, kept, own)
    member = F.one_hot(group, count).float()
    attention = scores.clamp(min=torch.finfo(torch.float32).eps)
    return Dense(mixtures(member.mT, weight * attention), weight, member)
