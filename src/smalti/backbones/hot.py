"""HoT: a pose transformer that works on few frames in the middle and on all at both ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.backbones.pose import DSTformer, DSTformerConfig, MixSTE, MixSTEConfig, PoseHost, flip_pose
from smalti.errors import ConfigError
from smalti.nn.clustering import take
from smalti.nn.temporal_recovery import TokenRecoveringAttention, interpolate_frames
from smalti.reducers.hot import HoTConfig as Selection
from smalti.reducers.hot import select
from smalti.registry import Official, Paper, system


@dataclass(frozen=True)
class HoTConfig:
    """Attributes:
    host: the pose transformer, by its configuration.
    tokens: frames that are left; all of them when not given.
    layer: step of the host before which frames leave, 1 … depth − 1.
    target: "sequence" gives all frames back; "frame" keeps the middle one and gives what is left.
    recover: how a sequence comes back: by learned "attention", or "linear" or "nearest" in time.
    queries: start of the learned queries, "zero" as official or "sine".
    selection: how frames are chosen.
    """

    host: MixSTEConfig | DSTformerConfig = field(default_factory=MixSTEConfig)
    tokens: int | None = 81
    layer: int = 3
    target: Literal["sequence", "frame"] = "sequence"
    recover: Literal["attention", "linear", "nearest"] = "attention"
    queries: Literal["zero", "sine"] = "zero"
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        if self.target not in ("sequence", "frame"):
            raise ConfigError(f"no target {self.target!r}: choose sequence or frame")
        if self.recover not in ("attention", "linear", "nearest"):
            raise ConfigError(f"no way to recover {self.recover!r}: choose attention, linear or nearest")
        if self.tokens is None:
            return
        if not 1 <= self.tokens <= self.host.frames:
            raise ConfigError(f"{self.tokens} frames cannot be kept of {self.host.frames}")
        if not 1 <= self.layer < self.host.depth:
            raise ConfigError(
                f"frames leave before a step from 1 to {self.host.depth - 1}, not before {self.layer}"
            )


class Lifted(NamedTuple):
    """Poses in space, and the frames they belong to.

    Attributes:
        poses: [b f n 3], or [b m n 3] where only kept frames are given.
        index: [b m] frames that the middle steps worked on, rising.
    """

    poses: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]


@system(
    "hot",
    room="backbones",
    paper=Paper(
        "Hourglass Tokenizer for Efficient Transformer-Based 3D Human Pose Estimation",
        2024,
        "https://arxiv.org/abs/2311.12028",
    ),
    official=Official("NationalGAILab/HoT", "MIT"),
    presets={
        "mixste-hot": HoTConfig(),
        "mixste-tpc": HoTConfig(tokens=61, layer=7, target="frame"),
        "mixste": HoTConfig(tokens=None),
        "motionbert-hot": HoTConfig(host=DSTformerConfig(), layer=1),
        "motionbert": HoTConfig(host=DSTformerConfig(), tokens=None),
    },
    tags=("pose", "prune", "recover", "motion"),
)
class HoT(nn.Module):
    """Hourglass Tokenizer (Li et al., 2024): 2D joints over time → 3D joints, with few frames in the middle.

    ```
    pose [b f n 2] ─► steps on f frames ─► mean over joints ─► DPC-kNN ─► m frames (+ position)
                                                                             └─► steps on m frames
    [b f n 3] ◄─ head ◄─ [b f n c] ◄─ learned queries, cross-attention, joint by joint ◄─────┘
    ```
    MixSTE takes x and y in units of half the picture's width; MotionBERT's DSTformer also a confidence. The
    3D joints are relative to the root, in metres. Official sizes: 243 frames, 81 of them kept before step 3
    of 8 (MixSTE) or 1 of 5 (MotionBERT); for one target frame, 61 before step 7, without position and
    recovery.
    Deviations: seeded noise on densities, so that runs repeat; the hosts MHFormer and MotionAGFormer are not
        here.

    Raises:
        ConfigError: sequences of another length than the host's.
    """

    def __init__(self, config: HoTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HoTConfig()
        self.host: PoseHost = (
            MixSTE(config.host) if isinstance(config.host, MixSTEConfig) else DSTformer(config.host)
        )
        self.reduced_position, self.recovery = None, None
        if config.tokens is not None and config.target == "sequence":
            self.reduced_position = nn.Parameter(torch.zeros(1, config.tokens, self.host.dim))
            if config.recover == "attention":
                self.recovery = TokenRecoveringAttention(
                    self.host.frames, self.host.dim, self.host.heads, config.queries
                )

    def forward(self, pose: Float[Tensor, "b f n k"], index: Int[Tensor, "b m"] | None = None) -> Lifted:
        """Lift; `index` says which frames to keep, such as those of a pass before."""
        x, index = self.reduce(self.start(pose), index)
        for number in range(self._pruned_at, self.host.depth):
            x = self.host.step(number, x)
        return Lifted(self.host.read(self.restore(self.host.finish(x), index)), index)

    @property
    def _pruned_at(self) -> int:
        return self.host.depth if self.config.tokens is None else self.config.layer

    def start(self, pose: Float[Tensor, "b f n k"]) -> Float[Tensor, "b f n c"]:
        """The steps on all frames."""
        if pose.shape[1] != self.host.frames or pose.shape[3] != self.host.channels:
            raise ConfigError(
                f"this host takes {self.host.frames} frames of joints with {self.host.channels} numbers, "
                f"not {pose.shape[1]} with {pose.shape[3]}"
            )
        x = self.host.embed(pose)
        for number in range(self._pruned_at):
            x = self.host.step(number, x)
        return x

    def reduce(
        self, x: Float[Tensor, "b f n c"], index: Int[Tensor, "b m"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The frames that stay [b m n c] and where they stood [b m]."""
        batch, frames, joints = x.shape[:3]
        if self.config.tokens is None:
            return x, torch.arange(frames, device=x.device).expand(batch, -1)
        if index is None:
            centre = (frames - 1) // 2 if self.config.target == "frame" else None
            index = select(x.mean(2), self.config.tokens, self.config.selection, centre)
        x = take(x.flatten(2), index).unflatten(2, (joints, -1))
        return (x if self.reduced_position is None else x + self.reduced_position[:, :, None]), index

    def restore(self, x: Float[Tensor, "b m n c"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b f n c"]:
        """All frames again, where they are wanted."""
        if self.recovery is not None:
            return self.recovery(x)
        if self.config.tokens is None or self.config.target == "frame" or self.config.recover == "attention":
            return x
        return interpolate_frames(x, index, self.host.frames, self.config.recover)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int = 8,
        layer: int | None = None,
        tokens: int | None = None,
    ) -> HoT:
        """The module of an official checkpoint, of MixSTE or MotionBERT, with HoT, TPC or neither.

        Args:
            state: names and tensors; a prefix `module.` is taken off.
            heads: of the attention, which a checkpoint does not tell.
            layer: before which frames leave; the official one when not given.
            tokens: frames that are kept, for a checkpoint without recovery that is to be pruned.

        Raises:
            ConfigError: names or sizes that fit neither host.
        """
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        hourglass = "x_token" in state
        host = _host_of(state, heads)
        kept = state["pos_embed_token"].shape[1] if hourglass else tokens
        usual = 1 if isinstance(host, DSTformerConfig) else 3 if hourglass else 7
        target = "sequence" if hourglass or kept is None else "frame"
        model = cls(HoTConfig(host, kept, usual if layer is None else layer, target))
        try:
            model.load_state_dict(rename_official(state))
        except RuntimeError as error:
            raise ConfigError(f"this checkpoint is not of HoT's layout: {error}") from error
        return model


def _host_of(state: Mapping[str, Tensor], heads: int) -> MixSTEConfig | DSTformerConfig:
    """Sizes of the host, read off its tensors."""
    try:
        if "joints_embed.weight" in state:
            dim = state["joints_embed.weight"].shape[0]
            return DSTformerConfig(
                frames=state["temp_embed"].shape[1],
                joints=state["pos_embed"].shape[1],
                dim=dim,
                features=state["pre_logits.fc.weight"].shape[0],
                depth=sum(bool(re.fullmatch(r"ts_attn\.\d+\.weight", name)) for name in state),
                heads=heads,
                ratio=state["blocks_st.0.mlp_s.fc1.weight"].shape[0] / dim,
            )
        return MixSTEConfig(
            frames=state["Temporal_pos_embed"].shape[1],
            joints=state["Spatial_pos_embed"].shape[1],
            dim=state["Spatial_pos_embed"].shape[2],
            depth=sum(bool(re.fullmatch(r"STEblocks\.\d+\.norm1\.weight", name)) for name in state),
            heads=heads,
            hidden=state["STEblocks.0.mlp.fc1.weight"].shape[0],
        )
    except KeyError as error:
        raise ConfigError(f"this checkpoint is neither of MixSTE nor of MotionBERT: no {error}") from error


OFFICIAL_NAMES = (
    (r"^pos_embed_token$", "reduced_position"),
    (r"^x_token$", "recovery.queries"),
    (r"^cross_attention\.linear_q\.", "recovery.attention.q."),
    (r"^cross_attention\.(kv|proj)\.", r"recovery.attention.\1."),
    (r"^(Spatial_patch_to_embedding|joints_embed)\.", "host.embedding."),
    (r"^(Spatial_pos_embed|pos_embed)$", "host.joint_position"),
    (r"^(Temporal_pos_embed|temp_embed)$", "host.frame_position"),
    (r"^STEblocks\.", "host.spatial."),
    (r"^TTEblocks\.", "host.temporal."),
    (r"^Spatial_norm\.", "host.spatial_norm."),
    (r"^Temporal_norm\.", "host.temporal_norm."),
    (r"^blocks_st\.(\d+)\.(\w+)_s\.", r"host.space_first.\1.spatial.\2."),
    (r"^blocks_st\.(\d+)\.(\w+)_t\.", r"host.space_first.\1.temporal.\2."),
    (r"^blocks_ts\.(\d+)\.(\w+)_s\.", r"host.time_first.\1.spatial.\2."),
    (r"^blocks_ts\.(\d+)\.(\w+)_t\.", r"host.time_first.\1.temporal.\2."),
    (r"^ts_attn\.", "host.mixers."),
    (r"^pre_logits\.", "host.features."),
    (r"^(norm|head)\.", r"host.\1."),
)


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names → ours; keys and values of the recovery become one product."""
    state = dict(state)
    for kind in ("weight", "bias"):
        pair = [state.pop(f"cross_attention.linear_{side}.{kind}", None) for side in "kv"]
        if pair[0] is not None and pair[1] is not None:
            state[f"cross_attention.kv.{kind}"] = torch.cat([pair[0], pair[1]])
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in OFFICIAL_NAMES:
            name, found = re.subn(pattern, ours, name)
            if found:
                break
        renamed[name] = tensor
    return renamed


@torch.no_grad()
def lift_with_flip(model: HoT, pose: Float[Tensor, "b f n k"]) -> Lifted:
    """The mean of a pass and a mirrored one, as official; one target frame keeps the same frames."""
    plain = model(pose)
    mirrored = model(flip_pose(pose), plain.index if model.config.target == "frame" else None)
    return Lifted((plain.poses + flip_pose(mirrored.poses)) / 2, plain.index)
