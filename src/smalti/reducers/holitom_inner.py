"""HoliTom inside the language model: visual tokens that the last one hardly attends to melt into others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.clustering import best_pairs, take
from smalti.reducers.base import Context, Reducer
from smalti.reducers.holitom import OFFICIAL, PAPER
from smalti.reducers.reduction import Assign, Gather, Reduction, identity, protect
from smalti.reducers.strategies import best
from smalti.registry import system


@dataclass(frozen=True)
class HoliTomInnerConfig:
    """Attributes:
    layer: decoder layer before which tokens leave, counted from 0.
    ratio: share of the visual tokens that leave (the paper's R).
    """

    layer: int = 18
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ConfigError(
                f"layer {self.layer}: the attention of the layer before is needed, so at least 1"
            )
        if not 0 <= self.ratio < 1:
            raise ConfigError(f"ratio {self.ratio}: must be from 0 to below 1")


@system(
    "holitom-inner",
    room="reducers",
    paper=PAPER,
    official=OFFICIAL,
    presets={"7b": HoliTomInnerConfig(), "72b": HoliTomInnerConfig(layer=60)},
    tags=("training-free", "merge", "video-llm"),
)
class HoliTomInner(Reducer):
    """HoliTom's inner merging (2025): visual tokens most attended by the last one stay, others melt in.

    ```
    hidden states of visual tokens [b n d] ─┬─ attention from the last prompt token ─► kept, in their order
                                            └─ each other one, in turn: most similar kept ← (kept + it) / 2
    ```
    Halving in turn gives the j-th of m that melt into a token the share 2^(j-m-1), and the token itself 2^-m.
    Needs `Context.attention("last")` of the layer before. Text before the visual tokens is
    `Context.protected`, text behind them is put back by `between`; `positions` says which position ids and
    cache rows stay.

    Deviation: cosines have a floor under the norms, so that zero tokens give no NaN.

    Raises:
        ConfigError: options out of range.
        UnsupportedError: nobody gave the attention.
    """

    def __init__(self, config: HoliTomInnerConfig | None = None) -> None:
        super().__init__()
        self.config = config or HoliTomInnerConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """After the block before `layer`, the last but one of shallow models."""
        return (max(min(self.config.layer - 1, depth - 2), 0),)

    def kept(self, attention: Float[Tensor, "b n"], count: int | None = None) -> Int[Tensor, "b k"]:
        """Visual tokens that stay, in their order."""
        left = round(attention.shape[1] * (1 - self.config.ratio)) if count is None else count
        return best(attention.float(), left)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        if front in (count, tokens.shape[1]):
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        others, body = tokens[:, front:].float(), context.behind(front)
        kept = self.kept(body.asked("attention")("last"), None if count is None else count - front)
        group, share = melted(others, kept)
        mass = body.weights(others)
        total = torch.zeros(kept.shape, device=tokens.device).scatter_add(1, group, mass)
        weight = torch.cat([context.weights(tokens)[:, :front], share * total.gather(1, group)], 1)
        return protect(Assign(group, kept.shape[1]), front, weight)


def melted(
    tokens: Float[Tensor, "b n d"], kept: Int[Tensor, "b k"]
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
    """The kept token that each melts into, and its share there.

    Args:
        tokens: hidden states.
        kept: positions in rising order.
    """
    unit = F.normalize(tokens, dim=-1)
    own = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    group = best_pairs(unit, take(unit, kept))[1].scatter(1, kept, own)
    joins = torch.ones_like(group).scatter(1, kept, 0)
    member = F.one_hot(group, kept.shape[1]) * joins[..., None]
    later = member.flip(1).cumsum(1).flip(1).gather(2, group[..., None]).squeeze(-1)
    melts = member.sum(1).gather(1, group)
    return group, torch.exp2(-torch.where(joins.bool(), later, melts).float())


def between(reduction: Reduction, before: int, after: int) -> Assign:
    """The same reduction of tokens in the middle of a prompt, the others staying as they are.

    Args:
        reduction: of the visual tokens, by `HoliTomInner`.
        before: tokens in front of them.
        after: tokens behind them.
    """
    group = reduction.source_map
    first = torch.arange(before, device=group.device).expand(len(group), -1)
    last = torch.arange(after, device=group.device).expand(len(group), -1) + before + reduction.count
    whole = torch.cat([first, torch.where(group >= 0, group + before, -1), last], 1)
    weight = getattr(reduction, "weight", None)
    if weight is not None:
        weight = F.pad(weight, (before, after), value=1.0)
    return Assign(whole, before + reduction.count + after, weight)


def positions(kept: Int[Tensor, "b k"], before: int, size: int, length: int) -> Int[Tensor, "b m"]:
    """Positions in the prompt that stay: text, kept visual tokens, text.

    Args:
        kept: visual tokens that stay, in rising order.
        before: tokens in front of the visual ones.
        size: visual tokens there were.
        length: of the prompt.
    """
    front = torch.arange(before, device=kept.device).expand(len(kept), -1)
    back = torch.arange(before + size, length, device=kept.device).expand(len(kept), -1)
    return torch.cat([front, kept + before, back], 1)
