"""Transformers that lift 2D poses over time to 3D, as hosts of methods that change their frames on the way.

```
pose [b f n 2|3] ─► embed ─► step(0) ─► … ─► step(depth − 1) ─► finish ─► head ─► [b f n 3]
                              └── between two steps a method may keep fewer frames ──┘
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.transformer import Block

JOINT_WEIGHTS = (1.0, 1.0, 2.5, 2.5, 1.0, 2.5, 2.5, 1.0, 1.0, 1.0, 1.5, 1.5, 4.0, 4.0, 1.5, 4.0, 4.0)
LEFT, RIGHT = (4, 5, 6, 11, 12, 13), (1, 2, 3, 14, 15, 16)  # joints of Human3.6M's 17


class PoseHost(nn.Module, ABC):
    """A pose transformer cut into steps.

    Attributes:
        depth: number of steps.
        dim: channels between them.
        heads: of its attention.
        frames: that it takes.
        channels: numbers a joint that go in.
    """

    depth: int
    dim: int
    heads: int
    frames: int
    channels: int

    @abstractmethod
    def embed(self, pose: Float[Tensor, "b f n k"]) -> Float[Tensor, "b f n c"]:
        """Tokens of all joints of all frames."""

    @abstractmethod
    def step(self, number: int, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """One pass over space and time."""

    def finish(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """What comes after the last step."""
        return x

    @abstractmethod
    def read(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n 3"]:
        """Joints in space."""


def _over_space(block: nn.Module, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
    return block(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _over_time(block: nn.Module, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
    found = block(rearrange(x, "b f n c -> (b n) f c"))
    return rearrange(found, "(b n) f c -> b f n c", n=x.shape[2])


@dataclass(frozen=True)
class MixSTEConfig:
    """Attributes:
    frames: of a sequence.
    joints: of a skeleton.
    dim: channels.
    depth: pairs of a spatial and a temporal block.
    heads: of the attention.
    hidden: channels of every MLP.
    drop_path: of the last pair; the first has 0.
    """

    frames: int = 243
    joints: int = 17
    dim: int = 512
    depth: int = 8
    heads: int = 8
    hidden: int = 1024
    drop_path: float = 0.1


class MixSTE(PoseHost):
    """MixSTE (Zhang et al., 2022): spatial and temporal blocks take turns and share norms of the stream.

    ```
    step: spatial block ─► spatial norm ─► (+ time, in the first) ─► temporal block ─► temporal norm
    ```
    """

    channels = 2

    def __init__(self, config: MixSTEConfig | None = None) -> None:
        super().__init__()
        config = config or MixSTEConfig()
        self.depth, self.dim, self.heads, self.frames = config.depth, config.dim, config.heads, config.frames
        self.embedding = nn.Linear(self.channels, config.dim)
        self.joint_position = nn.Parameter(torch.zeros(1, config.joints, config.dim))
        self.frame_position = nn.Parameter(torch.zeros(1, config.frames, config.dim))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()

        def blocks() -> nn.ModuleList:
            ratio = config.hidden / config.dim
            return nn.ModuleList(Block(config.dim, config.heads, ratio, drop_path=rate) for rate in rates)

        self.spatial, self.temporal = blocks(), blocks()
        self.spatial_norm = nn.LayerNorm(config.dim, 1e-6)
        self.temporal_norm = nn.LayerNorm(config.dim, 1e-6)
        self.head = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, 3))

    def embed(self, pose: Float[Tensor, "b f n k"]) -> Float[Tensor, "b f n c"]:
        """Linear, and where on the skeleton."""
        return self.embedding(pose) + self.joint_position

    def step(self, number: int, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """One pair of blocks."""
        x = self.spatial_norm(_over_space(self.spatial[number], x))
        if number == 0:
            x = x + self.frame_position[:, :, None]
        return self.temporal_norm(_over_time(self.temporal[number], x))

    def read(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n 3"]:
        """Norm and linear."""
        return self.head(x)


@dataclass(frozen=True)
class DSTformerConfig:
    """Attributes:
    frames: of a sequence.
    joints: of a skeleton.
    dim: channels.
    features: channels in front of the head.
    depth: steps of two streams.
    heads: of the attention.
    ratio: hidden channels of every MLP, as a factor.
    """

    frames: int = 243
    joints: int = 17
    dim: int = 256
    features: int = 512
    depth: int = 5
    heads: int = 8
    ratio: float = 4.0


class Stream(nn.Module):
    """A spatial and a temporal block, in either order."""

    def __init__(self, dim: int, heads: int, ratio: float, space_first: bool) -> None:
        super().__init__()
        self.spatial, self.temporal = Block(dim, heads, ratio), Block(dim, heads, ratio)
        self.space_first = space_first

    def forward(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """Both, one after the other."""
        if self.space_first:
            return _over_time(self.temporal, _over_space(self.spatial, x))
        return _over_space(self.spatial, _over_time(self.temporal, x))


class DSTformer(PoseHost):
    """MotionBERT's DSTformer (Zhu et al., 2023): two streams in opposite order, mixed token by token.

    ```
    step: x ─┬─► space, time ─┐
             └─► time, space ─┴─► softmax(Linear of both) weighs them
    ```
    Takes x, y and the detector's confidence.
    """

    channels = 3

    def __init__(self, config: DSTformerConfig | None = None) -> None:
        super().__init__()
        config = config or DSTformerConfig()
        self.depth, self.dim, self.heads, self.frames = config.depth, config.dim, config.heads, config.frames
        self.embedding = nn.Linear(self.channels, config.dim)
        self.joint_position = nn.Parameter(torch.zeros(1, config.joints, config.dim))
        self.frame_position = nn.Parameter(torch.zeros(1, config.frames, 1, config.dim))

        def streams(space_first: bool) -> nn.ModuleList:
            sizes = config.dim, config.heads, config.ratio
            return nn.ModuleList(Stream(*sizes, space_first) for _ in range(config.depth))

        self.space_first, self.time_first = streams(True), streams(False)
        self.mixers = nn.ModuleList(nn.Linear(2 * config.dim, 2) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, 1e-6)
        features = ("fc", nn.Linear(config.dim, config.features)), ("act", nn.Tanh())
        self.features = nn.Sequential(OrderedDict(features))
        self.head = nn.Linear(config.features, 3)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for mixer in cast("Iterable[nn.Linear]", self.mixers):
            nn.init.zeros_(mixer.weight)
            nn.init.constant_(mixer.bias, 0.5)
        nn.init.trunc_normal_(self.joint_position, std=0.02)
        nn.init.trunc_normal_(self.frame_position, std=0.02)

    def embed(self, pose: Float[Tensor, "b f n k"]) -> Float[Tensor, "b f n c"]:
        """Linear, where on the skeleton, and when."""
        return self.embedding(pose) + self.joint_position + self.frame_position

    def step(self, number: int, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """Both streams and their mixture."""
        first, second = self.space_first[number](x), self.time_first[number](x)
        share = self.mixers[number](torch.cat([first, second], -1)).softmax(-1)
        return first * share[..., :1] + second * share[..., 1:]

    def finish(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
        """The last norm."""
        return self.norm(x)

    def read(self, x: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n 3"]:
        """Features and the regression."""
        return self.head(self.features(x))


def pose_loss(
    poses: Float[Tensor, "b f n 3"],
    target: Float[Tensor, "b f n 3"],
    weights: Sequence[float] = JOINT_WEIGHTS,
    root: int = 0,
) -> Tensor:
    """What HoT trains by: weighted MPJPE + ½ weighted squared steps of the poses + 2 mean velocity error.

    For one target frame both are taken at the kept frames. The root is put to zero in the target.
    """
    if len(weights) != target.shape[2]:
        raise ConfigError(f"{target.shape[2]} joints need as many weights, not {len(weights)}")
    weight = poses.new_tensor(weights)
    target = target.clone()
    target[:, :, root] = 0
    position = (weight * (poses - target).norm(dim=-1)).mean()
    step = poses.diff(dim=1)
    smooth = (weight[:, None] * step.square()).mean()
    velocity = (step - target.diff(dim=1)).norm(dim=-1).mean()
    return position + 0.5 * smooth + 2 * velocity


def flip_pose(
    pose: Float[Tensor, "b f n k"], left: Sequence[int] = LEFT, right: Sequence[int] = RIGHT
) -> Float[Tensor, "b f n k"]:
    """The mirror image: x changes its sign, left and right joints their places."""
    order = torch.arange(pose.shape[2])
    order[[*left, *right]] = order[[*right, *left]]
    sign = pose.new_ones(pose.shape[3])
    sign[0] = -1
    return pose[:, :, order] * sign
