"""EVAD's keyframe-centric token pruning: the keyframe stays, other frames keep what attention asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Gather, Reduction, identity
from smalti.registry import Official, Paper, system


@dataclass(frozen=True)
class EVADConfig:
    """Attributes:
    keep_rate: share of all tokens, the keyframe's included, that one step leaves where no count is asked.
    enhanced_weight: of the keyframe's queries in the mean of attention; 4 with a keep rate of 0.6.
    keyframe: number of the frame that stays; the middle one of those there are (t // 2) when not given.
    order: kept tokens stand by falling "score", as officially, or by "position".
    """

    keep_rate: float = 0.7
    enhanced_weight: float = 1.0
    keyframe: int | None = None
    order: Literal["score", "position"] = "score"

    def __post_init__(self) -> None:
        if not 0 < self.keep_rate <= 1:
            raise ConfigError(f"keep_rate must lie in (0, 1], not {self.keep_rate}")
        if not self.enhanced_weight > 0:
            raise ConfigError(f"enhanced_weight must be above 0, not {self.enhanced_weight}")
        if self.order not in ("score", "position"):
            raise ConfigError(f"no order {self.order!r}: choose score or position")


def received(
    attention: Float[Tensor, "b h n n"], central: Bool[Tensor, "b n"], weight: float
) -> Float[Tensor, "b n"]:
    """Attention that every token receives: mean over heads and queries, central queries times `weight`."""
    factor = torch.where(central, weight, 1.0)[:, None, :, None]
    return (attention.float() * factor).mean(2).mean(1)


def unprune(
    x: Float[Tensor, "b m d"],
    index: Int[Tensor, "b k"],
    filler: Float[Tensor, "1 1 d"],
    grid: tuple[int, int, int],
    *,
    sorted: bool = False,
) -> Float[Tensor, "b n d"]:
    """All tokens of a clip again, in their order: the keyframe's in the middle, `filler` for dropped ones.

    Args:
        x: the keyframe's tokens, then the others that were kept.
        index: of these others among all tokens but the keyframe's.
        filler: the learned token for dropped ones.
        grid: (t, h, w) of the clip.
        sorted: put every kept token in its own place; else, as the official code does and its weights expect,
            fill the free places in rising order by tokens in the order they have.
    """
    t, area = grid[0], grid[1] * grid[2]
    places = index if sorted else index.sort(-1).values
    rest = filler.to(x.dtype).expand(len(x), (t - 1) * area, -1)
    rest = rest.scatter(1, places[..., None].expand(-1, -1, x.shape[-1]), x[:, area:])
    before = area * (t // 2)
    return torch.cat([rest[:, :before], x[:, :area], rest[:, before:]], 1)


@system(
    "evad",
    room="reducers",
    paper=Paper(
        "Efficient Video Action Detection with Token Dropout and Context Refinement",
        2023,
        "https://arxiv.org/abs/2304.08451",
    ),
    official=Official("MCG-NJU/EVAD", "CC-BY-NC-4.0"),
    presets={
        "rho0.7": EVADConfig(),
        "rho0.6": EVADConfig(keep_rate=0.6, enhanced_weight=4.0),
        "rho1.0": EVADConfig(keep_rate=1.0),
    },
    tags=("training-free", "prune", "attention", "video"),
)
class EVAD(Reducer):
    """Keyframe-centric token pruning (Chen et al., 2023): attention received decides, the keyframe is kept.

    ```
    attention [b h n n], rows of the keyframe × weight ─► mean over heads and queries ─► top ⌈ρ n⌉ − keyframe
    tokens out: protected and keyframe tokens in their order, then the kept others
    ```
    The keyframe is the frame of that number where the context gives `frames`, else all protected tokens, as
    is the layout of EVAD's own encoder. The count is of all tokens, so that others are kept at less than ρ.
    Sits between attention and MLP of the first block of the second, third and fourth quarter. Where fewer
    tokens are asked for than the keyframe has, its own best stay: deviation, since the paper never does.
    Equal scores are broken by position.
    """

    place = "inside"

    def __init__(self, config: EVADConfig | None = None) -> None:
        super().__init__()
        self.config = config or EVADConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks 4, 7 and 10 of 12 (3, 6 and 9 from 0); 7, 13 and 19 of 24."""
        return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)}))

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        size = tokens.shape[1]
        share = max(math.ceil(self.config.keep_rate * size), context.protected)
        left = share if count is None else count
        if left >= size:
            return identity(tokens, context.mass)
        protected = torch.arange(size, device=tokens.device).expand(len(tokens), -1) < context.protected
        central = self._central(context, protected)
        score = self._scores(context, central)
        above = 2 * self.config.enhanced_weight + 1  # every score, so that the keyframe comes first, in order
        crowded = (central | protected).sum(-1, keepdim=True) > left
        score = torch.where(central, above + torch.where(crowded, score, 0.0), score)
        score = score.masked_fill(protected, torch.inf)
        index = score.argsort(dim=-1, descending=True, stable=True)[:, :left]
        if self.config.order == "position":
            index = index.sort(-1).values
        return Gather(size, index, context.mass)

    def _central(self, context: Context, protected: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        if context.frames is None:
            return protected
        frames = context.frames.expand_as(protected)
        key = (
            (frames.amax(-1, keepdim=True) + 1) // 2 if self.config.keyframe is None else self.config.keyframe
        )
        return (frames == key) & ~protected

    def _scores(self, context: Context, central: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        if context.attention is not None and self.config.enhanced_weight == 1:
            return context.attention("all").float()
        return received(context.asked("attention_map")(), central, self.config.enhanced_weight)
