"""Sizes of ResidualViT, and of the CLIP picture tower that it stands on."""

from __future__ import annotations

from dataclasses import dataclass

from smalti.backbones.centerclip_tower import CenterCLIPConfig
from smalti.errors import ConfigError, nearest
from smalti.nn.patch_choice import CHOICES

STRATEGIES = (*CHOICES, "merge", "resolution")


@dataclass(frozen=True)
class ResidualViTConfig:
    """Attributes:
    width: channels of CLIP's picture tower.
    depth: its blocks.
    heads: of their attention.
    patch: height and width of a patch.
    resolution: of the frames that positions are learned for; they are resampled for others.
    embedding: channels of a frame's feature.
    interval: frames that lean on every whole one (the paper's N).
    drop: share of patches that a leaning frame goes without (the paper's p).
    strategy: which patches stay: "random" (one draw for all frames), "uniform", "centre", "motion" (those
        that differ most from the whole frame); instead of leaving patches out, "merge" joins the most similar
        ones (ToMe) and "resolution" makes the frame smaller.
    training_strategy: likewise in training, where "random" draws for every frame.
    residual: give leaning frames a token made from the whole one's feature.
    seed: of the random draw.
    together: frames in one pass, which bounds the memory of long clips.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    resolution: int = 224
    embedding: int = 768
    interval: int = 2
    drop: float = 0.85
    strategy: str = "random"
    training_strategy: str = "random"
    residual: bool = True
    seed: int = 0
    together: int = 64

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.width} channels")
        if self.resolution % self.patch:
            raise ConfigError(f"patches of {self.patch} do not divide {self.resolution} pixels")
        if self.interval < 0 or self.together < 1 or not 0 <= self.drop <= 1:
            raise ConfigError(
                f"interval must be 0 or more, together 1 or more and drop in [0, 1], "
                f"not {self.interval}, {self.together} and {self.drop}"
            )
        for strategy in (self.strategy, self.training_strategy):
            if strategy not in STRATEGIES:
                raise ConfigError(f"no strategy {strategy!r}: {nearest(strategy, STRATEGIES)}")

    def cost(self) -> float:
        """Of a frame on average, as a share of a whole one's, were it linear in the patches."""
        return (1 + (1 - self.drop) * self.interval) / (1 + self.interval)


def tower_config(config: ResidualViTConfig) -> CenterCLIPConfig:
    """A plain CLIP picture tower."""
    tokens = (config.resolution // config.patch) ** 2
    return CenterCLIPConfig(
        frames=1,
        resolution=config.resolution,
        patch=config.patch,
        width=config.width,
        heads=config.heads,
        depth=config.depth,
        embedding=config.embedding,
        target_frames=(1,) * config.depth,
        cluster_tokens=(tokens,) * config.depth,
    )
