"""VQToken: all tokens of a video become the few codes of its own codebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn import spherical
from smalti.nn.clustering import take
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Assign, Gather, Reduction, identity, protect
from smalti.registry import Official, Paper, system

CRITERIA = ("elbow", "elbow_official", "silhouette")


@dataclass(frozen=True)
class VQTokenConfig:
    """Attributes:
    codes: K; None lets every video choose its own, between `least` and `most`.
    least: smallest K of the choice (officially 12).
    most: largest K of the choice (officially 20 to 32).
    criterion: what the choice goes by. "elbow": the K where the distortion's fall slows down most;
        "elbow_official": two more than the place of that K in the list, counted from 2, and at least `least`,
        as the official code does, which nearly always gives `least`; "silhouette": the best simplified
        silhouette.
    iterations: of k-means, at most.
    tolerance: movement of the centres at which k-means stops.
    seed: of the k-means++ start.
    """

    codes: int | None = 32
    least: int = 12
    most: int = 32
    criterion: Literal["elbow", "elbow_official", "silhouette"] = "elbow"
    iterations: int = 50
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ConfigError(f"no criterion {self.criterion!r}: choose one of {', '.join(CRITERIA)}")
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"codes from {self.least} to {self.most}: need 1 ≤ least ≤ most")
        if self.codes is not None and self.codes < 1:
            raise ConfigError(f"{self.codes} codes: need at least one, or None to choose by the video")


@system(
    "vqtoken",
    room="reducers",
    paper=Paper(
        "VQToken: Neural Discrete Token Representation Learning for Extreme Token Reduction in Video Large "
        "Language Models",
        2025,
        "https://arxiv.org/abs/2503.16980",
    ),
    official=Official("Hai-chao-Zhang/VQToken", "BSD-3-Clause"),
    presets={
        "fixed-32": VQTokenConfig(),
        "fixed-12": VQTokenConfig(codes=12),
        "fixed-64": VQTokenConfig(codes=64),
        "adaptive": VQTokenConfig(codes=None),
        "adaptive-official": VQTokenConfig(codes=None, most=20, criterion="elbow_official", iterations=100),
    },
    tags=("training-free", "merge", "cluster", "adaptive", "video", "video-llm"),
)
class VQToken(Reducer):
    """The discrete process of VQToken (2025): k-means by cosine over space and time, one codebook a video.

    ```
    tokens [b n d] ─► length 1 ─► k-means++ ─► k-means by cosine ─┬─► group = token hash [b t h w]
                                                                 └─► means of the groups = codebook [b k d]
    ```
    The reduction averages whatever tokens it is given; the official codebook averages tokens of length one:
    `reduction.apply(F.normalize(tokens, dim=-1))`. The attention that enriches the codebook with the hash is
    learned and lives in `smalti.backbones.vqtoken`. Adaptive batches are ragged.

    Deviations: codes are numbered by their first token, so that the hash does not depend on chance; the
    start is seeded; starts for fewer codes are the first ones of those for more; a code left without tokens
    gets the one that fits worst elsewhere, so that K are always K.

    Raises:
        ConfigError: bounds of K that contradict each other, or an unknown criterion.
    """

    def __init__(self, config: VQTokenConfig | None = None) -> None:
        super().__init__()
        self.config = config or VQTokenConfig()

    def layers(self, depth: int) -> tuple[int, ...]:
        """Once, after the first quarter: the codes of codes would be no codebook of the video."""
        return (max(depth // 4 - 1, 0),)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        others, body = F.normalize(tokens[:, front:].float(), dim=-1), context.behind(front)
        if front in (count, tokens.shape[1]):
            return Gather(tokens.shape[1], identity(tokens[:, :front]).index, context.mass)
        if count is None and self.config.codes is None:
            group = self._chosen(others, body)
        else:
            codes = min(self.config.codes or 0, others.shape[1]) if count is None else count - front
            group = self._grouped(others, body, codes)
        return protect(Assign(group, int(group.max()) + 1, body.mass), front, context.mass)

    def _grouped(
        self, tokens: Float[Tensor, "b n d"], context: Context, codes: int, start: Tensor | None = None
    ) -> Int[Tensor, "b n"]:
        start = spherical.plus_plus(tokens, codes, self.config.seed) if start is None else start[:, :codes]
        group, _ = spherical.spherical_k_means(
            tokens,
            take(tokens, start),
            context.mass,
            iterations=self.config.iterations,
            tolerance=self.config.tolerance,
        )
        return spherical.in_order(spherical.inhabited(tokens, group, codes), codes)

    def _chosen(self, tokens: Float[Tensor, "b n d"], context: Context) -> Int[Tensor, "b n"]:
        """Groups of every sample for the K that its curve shows."""
        most = min(self.config.most, tokens.shape[1])
        least = min(self.config.least, most)
        start = spherical.plus_plus(tokens, most, self.config.seed)
        tried = torch.stack([self._grouped(tokens, context, k, start) for k in range(least, most + 1)], 1)
        measure = spherical.silhouette if self.config.criterion == "silhouette" else spherical.distortion
        curve = torch.stack([measure(tokens, tried[:, i], least + i) for i in range(tried.shape[1])], 1)
        chosen = choose(curve, least, self.config.criterion).clamp(max=most) - least
        return tried[torch.arange(len(tokens), device=tokens.device), chosen]


def choose(curve: Float[Tensor, "b k"], least: int, criterion: str) -> Int[Tensor, "b"]:
    """How many codes a curve over K = least, least + 1, … asks for.

    Args:
        curve: distortions, or silhouettes.
        least: K of the first value.
        criterion: as in `VQTokenConfig`.
    """
    if criterion == "silhouette":
        return curve.argmax(1) + least
    if curve.shape[1] < 3:
        return torch.full((len(curve),), least, device=curve.device)
    bend = curve.diff(n=2).argmax(1)
    return bend + least + 1 if criterion == "elbow" else (bend + 4).clamp(min=least)
