"""CenterCLIP: the frames of a segment keep the medoids of their tokens, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.medoids import k_medoids, unit
from smalti.nn.spectral import heat_graph, neighbourhood, spectral_coordinates
from smalti.reducers.base import Context, Reducer
from smalti.reducers.criteria import Judgement
from smalti.reducers.reduction import Assign, Gather, Reduction, identity, protect
from smalti.reducers.strategies import pool
from smalti.registry import Official, Paper, system

ALGORITHMS = ("kmedoids", "spectral", "pooling", "sparse")
LARGE = 100  # tokens a frame from which the official code takes wider neighbourhoods


@dataclass(frozen=True)
class CenterCLIPConfig:
    """Attributes:
    algorithm: "kmedoids" (k-medoids++), "spectral", or the baselines "pooling" (means over time) and "sparse"
        (evenly spaced tokens, in training random ones).
    segments: runs of frames that are clustered each by itself; at most one a frame.
    aggregation: the "medoids" themselves, all others being dropped, or the "mean" of every cluster.
    metric: distance of k-medoids, "euclidean" or "cosine".
    power: p of the Minkowski distance behind "euclidean".
    normalise: scale tokens to length one first (official `pre_norm`); k-medoids alone.
    iterations: of k-medoids, at most.
    threshold: movement of medoids under which it stops.
    chunk: segments that share the stop rule, as official (`split_size`: 16, for ViT-B/16 4); results then
        depend on the batch. Every segment stands for itself when not given.
    sigma: width of the heat kernel of the spectral graph.
    graph: "heat" for all edges, "knn" for those to nearest neighbours.
    neighbours: of the "knn" graph; 5 a frame of the segment when not given, and 5 more on 100 tokens a frame.
    window: only edges between tokens near in space (9, on 100 tokens a frame 19) and time (7) count.
    signs: correct the signs of singular vectors.
    """

    algorithm: Literal["kmedoids", "spectral", "pooling", "sparse"] = "kmedoids"
    segments: int = 4
    aggregation: Literal["medoids", "mean"] = "medoids"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    power: float = 2.0
    normalise: bool = False
    iterations: int = 100
    threshold: float = 1e-6
    chunk: int | None = None
    sigma: float = 2.0
    graph: Literal["heat", "knn"] = "heat"
    neighbours: int | None = None
    window: bool = False
    signs: bool = True

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"no algorithm {self.algorithm!r}: choose one of {', '.join(ALGORITHMS)}")
        for name, known in (
            ("aggregation", ("medoids", "mean")),
            ("metric", ("euclidean", "cosine")),
            ("graph", ("heat", "knn")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"no {name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.segments < 1:
            raise ConfigError(f"at least one segment is needed, not {self.segments}")


class Clustered(NamedTuple):
    """What clustering made of every segment.

    Attributes:
        tokens: [b s k d], in the order of their medoids.
        ids: [b s k] positions of the medoids in their segment, rising; none after pooling.
        assign: [b s n] cluster of every token; none after sparse sampling.
    """

    tokens: Tensor
    ids: Tensor | None
    assign: Tensor | None


def cluster_tokens(
    x: Float[Tensor, "b t l d"], segments: int, count: int, config: CenterCLIPConfig, *, random: bool = False
) -> Clustered:
    """Tokens of every frame → `count` tokens of every segment of equally many frames.

    Args:
        x: tokens of every frame, without class tokens; a square grid where `config.window` is on.
        segments: runs of frames.
        count: tokens of every segment that stay; pooling leaves as many as a frame has.
        config: the algorithm and its options.
        random: sparse sampling draws its tokens.

    Raises:
        ConfigError: the frames do not divide into the segments, or have fewer tokens than asked for.
    """
    frames, tokens = x.shape[1:3]
    if frames % segments:
        raise ConfigError(f"{frames} frames do not divide into {segments} segments")
    duration = frames // segments
    side = int(tokens**0.5)
    grid = (duration, side, side) if side * side == tokens else (duration, 1, tokens)
    if config.algorithm == "pooling":
        count = tokens
    if not 1 <= count <= duration * tokens:
        raise ConfigError(
            f"{count} tokens cannot be left of {duration * tokens} in a segment of {duration} frames"
        )
    flat = rearrange(x, "b (s t) l d -> (s b) (t l) d", s=segments)
    ids, group = _grouped(flat, count, grid, config, random)
    kept = _reduction(flat, ids, group, count, config).apply(flat)

    def back(found: Tensor | None) -> Tensor | None:
        return None if found is None else rearrange(found, "(s b) ... -> b s ...", s=segments)

    return Clustered(rearrange(kept, "(s b) k d -> b s k d", s=segments), back(ids), back(group))


def _grouped(
    x: Float[Tensor, "b n d"],
    count: int,
    grid: tuple[int, int, int],
    config: CenterCLIPConfig,
    random: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Medoids [b k] and groups [b n] of one segment, whichever the algorithm gives."""
    if config.algorithm == "sparse":
        return sparse_positions(count, x.shape[1], random).to(x.device).expand(len(x), -1), None
    if config.algorithm == "pooling":
        group = torch.arange(x.shape[1], device=x.device) % count
        return None, group.expand(len(x), -1)
    x = x.detach().float()
    if config.algorithm == "spectral":
        x = spectral_coordinates(segment_graph(x, grid, config), count, signs=config.signs)
    elif config.normalise:
        x = unit(x)
    return k_medoids(
        x,
        count,
        cosine=config.metric == "cosine",
        power=config.power,
        iterations=config.iterations,
        threshold=config.threshold,
        chunk=config.chunk,
    )


def segment_graph(
    x: Float[Tensor, "b n d"], grid: tuple[int, int, int], config: CenterCLIPConfig
) -> Float[Tensor, "b n n"]:
    """The graph of a segment's tokens that spectral clustering cuts."""
    frames, height, width = grid
    large = height * width >= LARGE
    neighbours = None
    if config.graph == "knn":
        neighbours = config.neighbours or 5 * frames + (5 if large else 0)
    near = neighbourhood(grid, 19 if large else 9, 7).to(x.device) if config.window else None
    return heat_graph(x, config.sigma, neighbours, near)


def sparse_positions(count: int, size: int, random: bool = False) -> Int[Tensor, "k"]:
    """The middle of every one of `count` equal runs, or a random place in each."""
    if random:
        step = size // count
        return torch.arange(count) * step + torch.randint(step, (count,))
    step = size / count
    return (step / 2 + step * torch.arange(count, dtype=torch.float64)).long()


def _reduction(
    x: Float[Tensor, "b n d"],
    ids: Tensor | None,
    group: Tensor | None,
    count: int,
    config: CenterCLIPConfig,
    mass: Tensor | None = None,
) -> Reduction:
    if group is None or (ids is not None and config.aggregation == "medoids"):
        assert ids is not None  # every algorithm gives one of the two
        return Gather(x.shape[1], ids, mass)
    return Assign(group, count, mass)


@system(
    "centerclip",
    room="reducers",
    paper=Paper(
        "CenterCLIP: Token Clustering for Efficient Text-Video Retrieval",
        2022,
        "https://arxiv.org/abs/2205.00823",
    ),
    official=Official("mzhaoshuai/CenterCLIP", "CC-BY-NC-4.0"),
    presets={
        "default": CenterCLIPConfig(),
        "spectral": CenterCLIPConfig(algorithm="spectral"),
        "pooling": CenterCLIPConfig(algorithm="pooling"),
        "sparse": CenterCLIPConfig(algorithm="sparse"),
    },
    tags=("training-free", "cluster", "prune", "video", "image"),
)
class CenterCLIP(Reducer):
    """CenterCLIP (Zhao et al., 2022): k-medoids++ in every segment of a clip, medoids alone stay.

    ```
    t frames × l tokens ─► s segments of t/s frames ─► k medoids of each, in rising order ─► s × k tokens
    ```
    Works once, halfway through the network. Tokens are shared out among the segments by their length, so any
    count is met; a clip without a grid, or a picture, is one segment. Protected tokens stay as they are,
    where the official model averages the class tokens of a segment's frames: see the backbone of this name.
    `aggregation="mean"` keeps the mass of all tokens; medoids drop theirs. Deviations: every sample stands
    for itself unless `chunk` is given; pooling to a number that no frames' grid has falls back on runs or
    blocks.

    Raises:
        ConfigError: fewer tokens asked for than must stay.
    """

    def __init__(self, config: CenterCLIPConfig | None = None) -> None:
        super().__init__()
        self.config = config or CenterCLIPConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """After the first half of the blocks."""
        return (max(depth // 2 - 1, 0),)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        body, inner = tokens[:, front:], context.behind(front)
        size = body.shape[1]
        grid = context.grid if context.grid and _volume(context.grid) == size else (1, 1, size)
        if count is None:
            left = max(1, size * min(self.config.segments, grid[0]) // (2 if grid[0] == 1 else grid[0]))
        else:
            left = count - front
        if left == 0:
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        if self.config.algorithm == "pooling":
            reduction = self._pooled(body, inner, left, grid)
        else:
            reduction = self._clustered(body, inner, left, grid)
        return protect(reduction, front, context.mass)

    def _clustered(
        self, body: Float[Tensor, "b n d"], context: Context, left: int, grid: tuple[int, int, int]
    ) -> Reduction:
        frames, height, width = grid
        ids, groups, done = [], [], 0
        for start, end, share in plan(frames, height * width, left, self.config.segments):
            inside = ((end - start) // (height * width), height, width)
            found, group = _grouped(body[:, start:end], share, inside, self.config, self.training)
            ids.append(None if found is None else found + start)
            groups.append(None if group is None else group + done)
            done += share
        return _reduction(body, _joined(ids), _joined(groups), left, self.config, context.mass)

    def _pooled(
        self, body: Float[Tensor, "b n d"], context: Context, left: int, grid: tuple[int, int, int]
    ) -> Reduction:
        frames, plane = grid[0], grid[1] * grid[2]
        if left % plane or left // plane > frames:
            return pool(body, Judgement(body[..., 0]), left, context)
        position = torch.arange(body.shape[1], device=body.device)
        segment = position // plane * (left // plane) // frames
        return Assign((segment * plane + position % plane).expand(len(body), -1), left, context.mass)


def plan(frames: int, plane: int, count: int, segments: int) -> list[tuple[int, int, int]]:
    """First token, end and share of `count` of every segment: whole frames, none without a share."""
    size = frames * plane
    for parts in range(min(segments, frames, count), 1, -1):
        bounds = [frames * part // parts * plane for part in range(parts + 1)]
        shares = [bound * count // size for bound in bounds]
        found = [(bounds[part], bounds[part + 1], shares[part + 1] - shares[part]) for part in range(parts)]
        if all(share for _, _, share in found):
            return found
    return [(0, size, count)]


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there, 1) if there else None


def _volume(grid: tuple[int, int, int]) -> int:
    return grid[0] * grid[1] * grid[2]
