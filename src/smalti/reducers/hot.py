"""HoT: the frames at peaks of density stand for a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.clustering import nearest, take
from smalti.nn.peaks import density_peaks
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Assign, Gather, Reduction, identity, protect
from smalti.registry import Official, Paper, system

SELECTIONS = ("dpc", "uniform", "attention", "motion")


@dataclass(frozen=True)
class HoTConfig:
    """Attributes:
    selection: what stays: "dpc" peaks of density, or for comparison "uniform" spacing, most "attention"
        received, most "motion" (distance to the frame before and after).
    neighbours: k of the density, each token counting itself; the official 2 leaves one real neighbour.
    level: what is chosen: every "token" for itself, or whole frames ("frame") by the mean of their tokens,
        which needs a grid.
    keep_centre: the middle token or frame always stays (official TPC for one target frame).
    merge: average each cluster instead of dropping what is not chosen; the official code only drops.
    noise: largest uniform noise on densities. It must break ties: with two neighbours, frames that are
        nearest to each other are equally dense, and both would be centres.
    seed: of the noise, which is the same for every sample; the official code draws anew in every pass.
    """

    selection: Literal["dpc", "uniform", "attention", "motion"] = "dpc"
    neighbours: int = 2
    level: Literal["token", "frame"] = "token"
    keep_centre: bool = False
    merge: bool = False
    noise: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise ConfigError(f"no selection {self.selection!r}: choose one of {', '.join(SELECTIONS)}")
        if self.level not in ("token", "frame"):
            raise ConfigError(f"no level {self.level!r}: choose token or frame")
        if self.neighbours < 1:
            raise ConfigError(f"density needs at least one neighbour, not {self.neighbours}")


def select(
    x: Float[Tensor, "b f d"],
    count: int,
    config: HoTConfig | None = None,
    must_keep: int | None = None,
    attention: Float[Tensor, "b f"] | None = None,
) -> Int[Tensor, "b m"]:
    """Positions of the `count` frames that stay, in rising order.

    Args:
        x: one vector a frame.
        count: frames that stay, 1 … f.
        config: how they are chosen; DPC-kNN with two neighbours when not given.
        must_keep: a frame that stays whatever its score; one less is chosen.
        attention: scores of the selection "attention".

    Raises:
        ConfigError: a count that is not among 1 … f.
    """
    config = config or HoTConfig()
    frames = x.shape[1]
    if not 1 <= count <= frames:
        raise ConfigError(f"{count} frames cannot be kept of {frames}")
    best = _ranked(x.detach(), count, config, must_keep, attention)
    if must_keep is not None:
        is_kept = best == must_keep
        others = best.gather(1, is_kept.int().argsort(dim=1, stable=True))[:, : count - 1]
        best = torch.cat([others, torch.full_like(best[:, :1], must_keep)], 1)
    return best.sort(-1).values


def _ranked(
    x: Float[Tensor, "b f d"],
    count: int,
    config: HoTConfig,
    must_keep: int | None,
    attention: Float[Tensor, "b f"] | None,
) -> Int[Tensor, "b m"]:
    """The best frames, the least of them last."""
    batch, frames = x.shape[:2]
    if config.selection == "dpc":
        noise = None
        if config.noise:
            generator = torch.Generator().manual_seed(config.seed)
            noise = torch.rand(1, frames, generator=generator).to(x.device).expand(batch, -1) * config.noise
        return density_peaks(x, count, config.neighbours, noise=noise)[0]
    if config.selection == "uniform":
        places = torch.arange(count, device=x.device) * max(frames - 1, 0) / max(count - 1, 1)
        places = places.round().long() if count > 1 else torch.full_like(places, (frames - 1) // 2).long()
        away = (places - (must_keep or 0)).abs()
        return places[away.argsort(descending=True, stable=True)].expand(batch, -1)
    scores = attention if config.selection == "attention" else motion(x)
    if scores is None:
        raise ConfigError("selection by attention needs the attention that every frame receives")
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :count]


def motion(x: Float[Tensor, "b f d"]) -> Float[Tensor, "b f"]:
    """Mean distance of every frame to the one before and the one after; the ends have one neighbour."""
    if x.shape[1] == 1:
        return x.new_zeros(x.shape[:2], dtype=torch.float32)
    step = x.float().diff(dim=1).norm(dim=-1)
    return (torch.cat([step[:, :1], step], 1) + torch.cat([step, step[:, -1:]], 1)) / 2


@system(
    "hot",
    room="reducers",
    paper=Paper(
        "Hourglass Tokenizer for Efficient Transformer-Based 3D Human Pose Estimation",
        2024,
        "https://arxiv.org/abs/2311.12028",
    ),
    official=Official("NationalGAILab/HoT", "MIT"),
    presets={
        "default": HoTConfig(),
        "centre": HoTConfig(keep_centre=True),
        "uniform": HoTConfig(selection="uniform"),
    },
    tags=("training-free", "prune", "cluster", "video", "motion"),
)
class HoT(Reducer):
    """Token Pruning Cluster of HoT (Li et al., 2024): keep cluster centres in time order, average nothing.

    ```
    frames [b f d] ─► distances/√d ─► density (2 nearest) × distance to a denser one ─► m best ─► rising order
    ```
    One reduction early in the network. Where pruned tokens must come back, a host restores them, or the
    backbone of this name recovers them by learned queries. Left to itself it keeps a third. Deviation: the
    noise that breaks ties is drawn by a seed, so that every run gives the same.

    Raises:
        ConfigError: frames are chosen whole and the count is not one of whole frames, or there is no grid.
        UnsupportedError: selection by attention in a host that gives none.
    """

    def __init__(self, config: HoTConfig | None = None) -> None:
        super().__init__()
        self.config = config or HoTConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """After three eighths of the blocks, as in MixSTE: before block 3 of 8."""
        return (max(depth * 3 // 8 - 1, 0),)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        body, inner = tokens[:, front:], context.behind(front)
        plane = self._plane(body.shape[1], inner)
        frames = body.shape[1] // plane
        left = max(1, round(frames / 3)) * plane if count is None else count - front
        if left == 0:
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        if left % plane:
            raise ConfigError(
                f"frames of {plane} tokens are kept whole: ask for a multiple of {plane} tokens "
                f"behind the {front} protected ones, not {left}"
            )
        x = body.unflatten(1, (frames, plane)).float().mean(2)
        attention = None
        if self.config.selection == "attention":
            attention = inner.asked("attention")("all").unflatten(1, (frames, plane)).mean(2)
        centre = (frames - 1) // 2 if self.config.keep_centre else None
        kept = select(x, left // plane, self.config, centre, attention)
        return protect(self._as_reduction(x, kept, plane, inner), front, context.mass)

    def _plane(self, size: int, context: Context) -> int:
        """Tokens that stay or go together."""
        if self.config.level == "token":
            return 1
        if context.grid is None or context.grid[0] * context.grid[1] * context.grid[2] != size:
            raise ConfigError("frames can only be kept whole while tokens lie on a grid: use level='token'")
        return context.grid[1] * context.grid[2]

    def _as_reduction(
        self, x: Float[Tensor, "b f d"], kept: Int[Tensor, "b m"], plane: int, context: Context
    ) -> Reduction:
        frames, count = x.shape[1], kept.shape[1]
        if not self.config.merge:
            return Gather(frames * plane, _whole(kept, plane), context.mass)
        group = nearest(x, take(x, kept))
        group = group.scatter(1, kept, torch.arange(count, device=x.device).expand_as(kept))
        return Assign(_whole(group, plane), count * plane, context.mass)


def _whole(frames: Int[Tensor, "b f"], plane: int) -> Int[Tensor, "b n"]:
    """Positions of all tokens of some frames."""
    return (frames[..., None] * plane + torch.arange(plane, device=frames.device)).flatten(1)
