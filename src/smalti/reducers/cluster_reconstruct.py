"""Cluster-reconstruct (Expedit): local clusters of a map of tokens, which a dense task gets back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError, UnsupportedError
from smalti.nn import clustering
from smalti.nn.superpixels import layout, neighbour_weights, soft_k_means
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Dense, Gather, Reduction, identity, protect
from smalti.registry import Official, Paper, system

SIDE = 0.7  # of the map's, when no count is asked for: 40×40 → 28×28


@dataclass(frozen=True)
class ClusterReconstructConfig:
    """Attributes:
    temperature: multiplies squared distances (> 0).
    relative: squared distances are first divided by their mean between the tokens of a sample, so that one
        temperature fits features of every scale; 30 rebuilds DINOv2's best at every depth. Official presets
        take them as they are: 0.02 fits the features of Segmenter's ViT-L alone.
    iterations: of clustering; none leaves average pooling.
    locality: cells across, odd, among which a token is shared out.
    neighbours: nearest centres that a restored token is made of; all when negative.
    norm: of the weights of restoring: "l1" sums to 1 as the paper says, "l2" as the official code does.
    unpool: restore from the "neighbours", or by copying the "nearest" centre.
    window: side of the windows that are clustered each by itself; the whole map when 0.
    """

    temperature: float = 30.0
    relative: bool = True
    iterations: int = 5
    locality: int = 5
    neighbours: int = 20
    norm: Literal["l1", "l2"] = "l1"
    unpool: Literal["neighbours", "nearest"] = "neighbours"
    window: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, not {self.temperature}")
        if self.locality < 1 or self.locality % 2 == 0:
            raise ConfigError(f"locality must be an odd number of cells, not {self.locality}")
        if self.neighbours == 0:
            raise ConfigError("neighbours must be above 0, or negative for all centres")
        if self.norm not in ("l1", "l2"):
            raise ConfigError(f"no norm {self.norm!r}: choose l1 or l2")
        if self.unpool not in ("neighbours", "nearest"):
            raise ConfigError(f"no unpool {self.unpool!r}: choose neighbours or nearest")
        if self.iterations < 0 or self.window < 0:
            raise ConfigError(f"iterations ({self.iterations}) and window ({self.window}) cannot be negative")


@system(
    "cluster-reconstruct",
    room="reducers",
    paper=Paper(
        "Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning",
        2022,
        "https://arxiv.org/abs/2210.01035",
    ),
    official=Official("Expedit-LargeScale-Vision-Transformer", "MIT and Apache-2.0"),
    presets={
        "default": ClusterReconstructConfig(),
        "segmenter": ClusterReconstructConfig(0.02, False, locality=7, norm="l2"),
        "dpt": ClusterReconstructConfig(0.1, False, norm="l2"),
        "mask2former": ClusterReconstructConfig(0.05, False, locality=7, neighbours=10, norm="l2", window=12),
        "sam": ClusterReconstructConfig(0.01, False, norm="l2", window=14),
    },
    tags=("training-free", "cluster", "dense-prediction", "image", "video"),
)
class ClusterReconstruct(Reducer):
    """Expedit (Liang et al., 2022): soft local k-means after one block, tokens rebuilt from near clusters.

    ```
    x [b h·w d] ─► cells h'×w' by average pooling ─► soft local k-means ─► shares [b m n]
               └─► exp(−temperature · squared distance), k nearest ─► back [b n m]
    apply(x) = shares @ x ─► frozen blocks ─► z [b m d] ─► restore(z) = back @ z
    ```
    `restore` may be called for the output of every later block that a decoder taps. Tokens behind the
    protected ones must lie on `Context.grid`; every frame, and every window where `window` says so, is
    clustered alone, and centres stand in raster order within it. Where no h'×w' of about the map's shape has
    exactly the count asked, the rows of cells differ by one in length. Official presets carry the official
    "l2" norm of the weights: a constant map then comes back scaled.

    Deviations: tokens count by their mass in the means; no cluster is ever empty (logarithms are normalised);
    windows at the border are cut, not padded; without a count the sides shrink by 0.7.

    Raises:
        UnsupportedError: the tokens do not lie on a grid.
    """

    def __init__(self, config: ClusterReconstructConfig | None = None) -> None:
        super().__init__()
        self.config = config or ClusterReconstructConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """One: after 10 of 24 blocks, as for Segmenter."""
        return (max(depth * 10 // 24 - 1, 0),)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        if count == front:
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        others, body = tokens[:, front:], context.behind(front)
        t, h, w = context.asked("grid")
        if t * h * w != others.shape[1]:
            raise UnsupportedError(f"{others.shape[1]} tokens do not lie on a grid of {t}×{h}×{w}")
        left = t * max(round(h * SIDE), 1) * max(round(w * SIDE), 1) if count is None else count - front
        return protect(self._clusters(others, body, left), front, context.mass)

    def _clusters(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Dense:
        batch, size = tokens.shape[:2]
        regions = _regions(context.asked("grid"), self.config.window)
        if count < len(regions):
            regions = [torch.arange(size).view(-1, context.asked("grid")[2])]
        weights = torch.zeros(batch, count, size, device=tokens.device)
        back = torch.zeros(batch, size, count, device=tokens.device)
        for region, first, last in _shared_out(regions, count):
            index = region.flatten().to(tokens.device)
            mass = context.weights(tokens)[:, index]
            shares, weights_back = self._region(tokens[:, index].float(), mass, region.shape, last - first)
            weights[:, first:last, index] = shares
            back[:, index, first:last] = weights_back
        return Dense(weights, context.mass, back)

    def _region(
        self, tokens: Float[Tensor, "b n d"], mass: Float[Tensor, "b n"], shape: torch.Size, count: int
    ) -> tuple[Float[Tensor, "b m n"], Float[Tensor, "b n m"]]:
        config, (height, width) = self.config, shape
        temperature = self._temperature(tokens)
        shares = soft_k_means(
            tokens,
            layout(height, width, count),
            radius=config.locality // 2,
            temperature=temperature,
            iterations=config.iterations,
            weight=mass,
        )
        centres = shares @ tokens
        if config.unpool == "nearest":
            return shares, F.one_hot(clustering.nearest(tokens, centres), count).float()
        return shares, neighbour_weights(
            tokens,
            centres,
            temperature=temperature,
            neighbours=config.neighbours,
            norm=config.norm,
        )

    def _temperature(self, tokens: Float[Tensor, "b n d"]) -> float | Float[Tensor, "b 1 1"]:
        """What multiplies squared distances; their mean over all pairs is twice the variance."""
        if not self.config.relative:
            return self.config.temperature
        apart = 2 * tokens.var(1, correction=0).sum(-1)
        rounding = 1e-6 * tokens.square().sum(-1).mean(1) + 1e-12  # of equal tokens
        return self.config.temperature / torch.maximum(apart, rounding)[:, None, None]


def _regions(grid: tuple[int, int, int], window: int) -> list[Int[Tensor, "_ _"]]:
    """Positions of the tokens of every frame or, in raster order, of every window of it."""
    t, h, w = grid
    frames = torch.arange(t * h * w).view(t, h, w)
    if window == 0:
        return list(frames)
    return [part for frame in frames for rows in frame.split(window) for part in rows.split(window, 1)]


def _shared_out(regions: list[Int[Tensor, "_ _"]], count: int) -> list[tuple[Int[Tensor, "_ _"], int, int]]:
    """Every region with its first cell and the one after its last: one at least, the others by size."""
    free, spare = sum(region.numel() - 1 for region in regions), count - len(regions)
    before = accumulate((region.numel() - 1 for region in regions), initial=0)
    bounds = [number + done * spare // max(free, 1) for number, done in enumerate(before)]
    return [(region, *bound) for region, bound in zip(regions, pairwise(bounds), strict=True)]
