"""HoliTom before the language model: what stands still in a window of frames is kept once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.clustering import density_peaks, take
from smalti.nn.film_cut import apportion, best_cut, cut_that_leaves, gains
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Assign, Gather, Reduction, identity, protect
from smalti.reducers.strategies import best
from smalti.registry import Official, Paper, system

PAPER = Paper(
    "HoliTom: Holistic Token Merging for Fast Video Large Language Models",
    2025,
    "https://arxiv.org/abs/2505.21334",
)
OFFICIAL = Official("cokeshao/HoliTom", "Apache-2.0")


@dataclass(frozen=True)
class HoliTomConfig:
    """Attributes:
    ratio: share of all tokens to keep, when no count is asked for.
    tau: cosine with the next frame above which a place stands still.
    beta: share of the centre in a merged token; the mean of its members has the rest.
    plain_mean: centre and members count the same instead.
    contextual: share of a frame's moving tokens that are kept as centres of clusters; the others are chosen
        by the attention they receive (the paper's D; 0 stands behind all its figures).
    neighbours: k of DPC-kNN, but never more than there are centres.
    longest: frames in a window at most.
    newline: "one_token": a window's still tokens come before its frames; "grid": they lie in its first
        frame, in order of position, for models with a newline token after every row (see `with_newlines`).
    """

    ratio: float = 0.25
    tau: float = 0.8
    beta: float = 0.6
    plain_mean: bool = False
    contextual: float = 0.0
    neighbours: int = 7
    longest: int = 1024
    newline: Literal["one_token", "grid"] = "one_token"

    def __post_init__(self) -> None:
        for name in ("ratio", "beta", "contextual"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        if min(self.neighbours, self.longest) < 1:
            raise ConfigError(f"{self.neighbours} neighbours, windows of {self.longest}: need at least one")
        if self.newline not in ("one_token", "grid"):
            raise ConfigError(f"no newline {self.newline!r}: choose one_token or grid")


class Plan(NamedTuple):
    """How a film is cut and what each part may keep.

    Attributes:
        windows: first and last frame of each.
        saved: tokens saved by keeping still places once.
        ratio: share that is kept of what is left then.
        still: places that stand still in every window, [windows n].
        still_kept: tokens to keep of these.
        moving_kept: tokens to keep of the other places, of every frame.
    """

    windows: tuple[tuple[int, int], ...]
    saved: int
    ratio: float
    still: Bool[Tensor, "w n"]
    still_kept: tuple[int, ...]
    moving_kept: tuple[int, ...]


class Layout(NamedTuple):
    """Where every source token of one film goes.

    Attributes:
        group: the token it becomes part of, -1 if it is dropped.
        share: its share of that token; the shares of a token sum to one.
        anchor: place of every new token, frame × n + position: of its centre, or of the token itself.
    """

    group: Int[Tensor, "f n"]
    share: Float[Tensor, "f n"]
    anchor: Int[Tensor, "m"]


@system(
    "holitom",
    room="reducers",
    paper=PAPER,
    official=OFFICIAL,
    presets={
        "r25": HoliTomConfig(),
        "r20": HoliTomConfig(ratio=0.20),
        "r15": HoliTomConfig(ratio=0.15),
        "r10": HoliTomConfig(ratio=0.10, tau=0.65),
    },
    tags=("training-free", "merge", "prune", "video", "video-llm"),
)
class HoliTom(Reducer):
    """HoliTom's outer merging (2025): windows by a dynamic program, then what is still and what moves.

    ```
    tokens [f n d] ─► cosines of neighbours in time ─► windows that save most
       ├─ still places, one mean a window ─► DPC-kNN centres + members merged (β centre + (1 - β) mean)
       └─ moving places, frame by frame ──► most attended (+ DPC-kNN centres of the rest)
    tokens out, window by window: still ones, then frame by frame
    ```
    Needs `Context.attention("all")`, mean attention that every token receives, and `grid` or `frames`;
    without these all tokens are one frame. The share of a token is exact: the reduction is a weighted mean,
    and its mass counts all tokens that went in. Moving tokens that are not chosen are dropped.

    An exact count is met by largest remainders of what each part would keep. Where still places save so much
    that the count cannot be reached, windows are made shorter. Deviations: no noise on densities, equal ones
    go by position; every film of a batch has its own ratio (the official loop carries it on).

    Raises:
        ConfigError: options out of range, or a grid of another size than the tokens.
        UnsupportedError: nobody gave the attention.
    """

    def __init__(self, config: HoliTomConfig | None = None) -> None:
        super().__init__()
        self.config = config or HoliTomConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """Once, after the first quarter: behind it there is no grid any more."""
        return (max(depth // 4 - 1, 0),)

    def plan(self, video: Float[Tensor, "f n d"], count: int | None = None) -> Plan:
        """The cut and the budgets of one film."""
        frames, size = video.shape[:2]
        still = similarities(video) > self.config.tau
        gain = gains(still)
        total, longest = frames * size, self.config.longest
        cut = best_cut(gain, longest) if count is None else cut_that_leaves(gain, total, count, longest)
        ratio = self.config.ratio if count is None else count / total
        ratio = min(ratio / ((total - cut.saved) / total), 1)
        never = torch.zeros(size, dtype=torch.bool, device=video.device)
        standing = torch.stack([still[a:b].all(0) if b > a else never for a, b in cut.windows])
        stills = standing.sum(1).tolist()
        movings = [size - n for (a, b), n in zip(cut.windows, stills, strict=True) for _ in range(a, b + 1)]
        if count is None:
            kept = [round(n * ratio) for n in stills] + [math.ceil(n * ratio) for n in movings]
        else:
            kept = apportion(stills + movings, count)
        return Plan(
            cut.windows, cut.saved, ratio, standing, tuple(kept[: len(stills)]), tuple(kept[len(stills) :])
        )

    def layout(self, video: Float[Tensor, "f n d"], attention: Float[Tensor, "f n"], plan: Plan) -> Layout:
        """Which tokens become which."""
        frames, size = video.shape[:2]
        group = torch.full((frames, size), -1, device=video.device)
        share = torch.zeros(frames, size, device=video.device)
        anchors: list[Tensor] = []
        made = 0
        for (first, last), still, kept in zip(plan.windows, plan.still, plan.still_kept, strict=True):
            window = slice(first, last + 1)
            if kept:
                places = still.nonzero()[:, 0]
                mean = video[window, places].mean(0)
                centres, member, part = self._clustered(mean[None], kept)
                group[window, places] = member[0] + made
                share[window, places] = part[0] / (last + 1 - first)
                anchors.append(first * size + places[centres[0]])
                made += kept
            places = (~still).nonzero()[:, 0]
            for frame in range(first, last + 1):
                chosen = plan.moving_kept[frame]
                if not chosen:
                    continue
                centres, member, part = self._chosen(
                    video[frame : frame + 1, places], attention[frame : frame + 1, places], chosen
                )
                group[frame, places] = torch.where(member[0] >= 0, member[0] + made, -1)
                share[frame, places] = part[0]
                anchors.append(frame * size + places[centres[0]])
                made += chosen
        anchor = torch.cat(anchors) if anchors else torch.zeros(0, dtype=torch.int64, device=video.device)
        if self.config.newline == "grid":
            order = anchor.argsort(stable=True)
            group = torch.where(group >= 0, order.argsort()[group.clamp(min=0)], -1)
            anchor = anchor[order]
        return Layout(group, share, anchor)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        if front in (count, tokens.shape[1]):
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        body, others = context.behind(front), tokens[:, front:].float()
        attention = context.asked("attention")("all")[:, front:].float()
        mass = body.weights(others)
        groups, weights, most = [], [], 1
        for sample, video in enumerate(others):
            shape = (_frames(body, sample, len(video)), -1)
            film = video.unflatten(0, shape)
            plan = self.plan(film, None if count is None else count - front)
            found = self.layout(film, attention[sample].unflatten(0, shape), plan)
            groups.append(found.group.flatten())
            weights.append(_weights(found, mass[sample]))
            most = max(most, len(found.anchor))
        weight = torch.cat([context.weights(tokens)[:, :front], torch.stack(weights)], 1)
        return protect(Assign(torch.stack(groups), most), front, weight)

    def _clustered(
        self, tokens: Float[Tensor, "b n d"], count: int
    ) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Centres in order, group of every token, and its share of the group's token."""
        found, group = density_peaks(tokens, count, min(self.config.neighbours, count))
        centres, order = found.sort(-1)
        group = order.argsort(-1).gather(1, group)
        return centres, group, self._shares(group, centres)

    def _shares(self, group: Int[Tensor, "b n"], centres: Int[Tensor, "b k"]) -> Float[Tensor, "b n"]:
        ones = torch.ones(group.shape, device=group.device)
        size = torch.zeros(centres.shape, device=group.device).scatter_add(1, group, ones)
        if self.config.plain_mean:
            return (1 / size).gather(1, group)
        member = (1 - self.config.beta) / (size - 1).clamp(min=1)
        centre = torch.where(size > 1, self.config.beta, 1.0)
        return member.gather(1, group).scatter(1, centres, centre)

    def _chosen(
        self, tokens: Float[Tensor, "b n d"], attention: Float[Tensor, "b n"], count: int
    ) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"], Float[Tensor, "b n"]]:
        """As `_clustered`, for the most attended tokens and then the centres of the others."""
        dominant = round(count * (1 - self.config.contextual))
        kept = best(attention, dominant)
        own = torch.arange(dominant, device=tokens.device).expand_as(kept)
        group = torch.full(tokens.shape[:2], -1, device=tokens.device).scatter(1, kept, own)
        share = (group >= 0).float()
        if dominant == count:
            return kept, group, share
        left = (group < 0).nonzero()[:, 1].view(len(tokens), -1)
        centres, member, part = self._clustered(take(tokens, left), count - dominant)
        group, share = group.scatter(1, left, member + dominant), share.scatter(1, left, part)
        return torch.cat([kept, left.gather(1, centres)], 1), group, share


def similarities(video: Float[Tensor, "f n d"]) -> Float[Tensor, "steps n"]:
    """Cosine of every place with the same place in the next frame."""
    unit = F.normalize(video.float(), dim=-1)
    return F.cosine_similarity(unit[:-1], unit[1:], dim=-1)


def with_newlines(
    tokens: Float[Tensor, "m d"], anchor: Int[Tensor, "m"], newline: Float[Tensor, "d"], width: int
) -> Float[Tensor, "l d"]:
    """The same tokens with a newline after every row of the grid that has any.

    Args:
        tokens: in order of place.
        anchor: their places, frame × n + position.
        newline: the model's embedding.
        width: places in a row.
    """
    row = anchor // width
    ends = torch.ones_like(row, dtype=torch.bool)
    ends[:-1] = row[1:] != row[:-1]
    place = torch.arange(len(row), device=row.device) + ends.cumsum(0) - ends.long()
    whole = newline.expand(len(row) + int(ends.sum()), -1).clone()
    whole[place] = tokens
    return whole


def _weights(layout: Layout, mass: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Weights that give every token its share, and their sum the mass that went in."""
    group = layout.group.flatten()
    total = torch.zeros(len(layout.anchor) + 1, device=mass.device).scatter_add(0, group + 1, mass)
    return layout.share.flatten() * total[group + 1]


def _frames(context: Context, sample: int, size: int) -> int:
    frames = 1
    if context.grid is not None:
        frames = context.grid[0]
        if math.prod(context.grid) != size:
            raise ConfigError(f"{size} tokens do not lie on a grid of {context.grid}")
    elif context.frames is not None:
        frames = int(context.frames[sample].max()) + 1
    if size % frames:
        raise ConfigError(f"{size} tokens do not make {frames} frames of equal size")
    return frames
