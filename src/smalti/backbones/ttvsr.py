"""TTVSR: video at four times the size, with detail fetched from far frames along trajectories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted
from smalti.backbones.picture_frames import check_source
from smalti.backbones.ttvsr_layers import (
    SCALE,
    SLOPE,
    Reconstruction,
    flow_in_parts,
    is_mirrored,
    padded,
    residual_trunk,
)
from smalti.errors import ConfigError, MediaError, nearest
from smalti.nn.pyramid_flow import SPyNet, flow_warp
from smalti.nn.strict_loading import load_strictly, told
from smalti.nn.trajectories import SCALES, LocationMap, TrajectoryAttention
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens

FLOWS = ("spynet", "zero")


@dataclass(frozen=True)
class TTVSRConfig:
    """A recurrent network that looks along trajectories.

    Attributes:
        channels: of all maps.
        extract: residual blocks that look at a frame by itself.
        blocks: residual blocks of the recurrent trunk.
        stride: side of a token in pixels.
        keyframe_stride: frames from one key frame to the next.
        scales: sides of the windows that values are taken from, in tokens.
        attend: look along trajectories; without it only the neighbouring frame is known.
        flow: "spynet" learns it; "zero" stands still unless flows are given.
        fine: channels of the finest map.
    """

    channels: int = 64
    extract: int = 5
    blocks: int = 60
    stride: int = 4
    keyframe_stride: int = 3
    scales: tuple[float, ...] = SCALES
    attend: bool = True
    flow: Literal["spynet", "zero"] = "spynet"
    fine: int = 64

    def __post_init__(self) -> None:
        for name in ("channels", "stride", "keyframe_stride", "fine"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.flow not in FLOWS:
            raise ConfigError(f"no flow {self.flow!r}: {nearest(self.flow, FLOWS)}")


class Flows(NamedTuple):
    """Flow between neighbouring frames, as (x, y) in pixels.

    Attributes:
        forward: [b t-1 2 h w], from frame i + 1 to frame i, by which states go forward in time.
        backward: [b t-1 2 h w], from frame i to frame i + 1.
    """

    forward: Tensor
    backward: Tensor


@system(
    "ttvsr",
    room="backbones",
    paper=Paper(
        "Learning Trajectory-Aware Transformer for Video Super-Resolution",
        2022,
        "https://arxiv.org/abs/2204.04216",
    ),
    official=Official("researchmm/TTVSR", "MIT"),
    presets={"ttvsr_reds4": TTVSRConfig(), "ttvsr_vimeo90k": TTVSRConfig()},
    tags=("video", "super-resolution", "trajectories", "hard-attention", "recurrent", "restoration"),
)
class TTVSR(Backbone):
    """TTVSR (Liu et al., 2022): video super-resolution by attention along motion trajectories.

    ```
    clip [b 3 t h w] ─► SPyNet ─► flows
          │                        │
          └─► features f ─┬─► backward in time ─► p ─┐
                          ├─────────────────────────►├─► conv 1×1 ─► shuffle ×2 ×2 ─► [b 3 t 4h 4w]
                          └─► forward in time ──► p ─┘                + bilinear ×4 of the clip

    one step:  p ─► warp by flow ─► + trajectory attention(f, key frames so far) ─► trunk([f, p]) ─► p
    ```
    `upscale` gives pixels in [0, 1], `restore` the same unclamped for training, `forward` the joined maps at
    the clip's own size as `Features`. Every third frame is a key frame: from the first one forward, from the
    last one backward, the first one excluded there. A clip that is mirrored in time needs half of the flow.
    Official training: Charbonnier loss, Adam 2e-4 (SPyNet an eighth of it, and still for 5,000 iterations),
    cosine to 1e-7 in 400,000 iterations (`ttvsr_training`).
    Deviations: any size (sides that the stride does not divide are continued; the official code wants at
    least 64 pixels), any width; the values of the likest key frame alone are read, places are whole numbers.

    Raises:
        MediaError: pixels that mean nothing, or flows of another size.
    """

    mean = (0.0, 0.0, 0.0)
    deviation = (1.0, 1.0, 1.0)

    def __init__(self, config: TTVSRConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or TTVSRConfig()
        width = config.channels
        self.spynet = SPyNet() if config.flow == "spynet" else None
        self.extract = residual_trunk(3, width, config.extract)
        self.attention = TrajectoryAttention(width, config.stride, config.scales) if config.attend else None
        self.trunk = residual_trunk(2 * width, width, config.blocks)
        self.join = nn.Conv2d(3 * width, width, 1)
        self.reconstruction = Reconstruction(width, config.fine)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of a clip in [0, 1]: one joined map a frame, at the clip's own size."""
        if isinstance(source, Tokens):
            raise ConfigError("TTVSR works on pixels [b 3 t h w], not on tokens")
        height, width = source.shape[-2:]
        joined = [maps[..., :height, :width] for maps, _ in self._joined(source, None)]
        maps = torch.stack(joined, 2)
        tokens = rearrange(maps, "b c t h w -> b (t h w) c")
        return Features(tokens, tokens.mean(1), (maps,), grid=(source.shape[2], height, width))

    def restore(self, pixels: Float[Tensor, "b 3 t h w"], flows: Flows | None = None) -> Tensor:
        """The clip [b 3 t 4h 4w], by flows of one's own if they are given."""
        return torch.stack(list(self.frames(pixels, flows)), 2)

    @torch.no_grad()
    def upscale(
        self, pixels: Float[Tensor, "b 3 t h w"], flows: Flows | None = None, offload: bool = False
    ) -> Tensor:
        """The clip in [0, 1] at four times its size [b 3 t 4h 4w].

        Args:
            pixels: in [0, 1].
            flows: computed where not given.
            offload: every finished frame goes to the memory of the CPU.
        """
        frames = (frame.clamp(0, 1) for frame in self.frames(pixels, flows))
        return torch.stack([frame.cpu() if offload else frame for frame in frames], 2)

    def frames(self, pixels: Float[Tensor, "b 3 t h w"], flows: Flows | None = None) -> Iterator[Tensor]:
        """Fine frames [b 3 4h 4w] one after another."""
        height, width = (SCALE * side for side in pixels.shape[-2:])
        for maps, frame in self._joined(pixels, flows):
            yield self.reconstruction(maps, frame)[..., :height, :width]

    def _joined(self, pixels: Tensor, flows: Flows | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every frame: the joined map, and the frame itself, both padded."""
        check_source(pixels)
        if flows is not None:
            _check_flows(flows, pixels)
        if flows is not None and pixels.shape[2] > 1:
            flows = Flows(*(padded(flow, self.config.stride) for flow in flows))
        pixels = padded(pixels, self.config.stride)
        flows = self.flows(pixels) if flows is None else flows
        maps = self.features(pixels)
        behind = list(self.propagate(maps, flows.backward, backward=True))[::-1]
        ahead = self.propagate(maps, flows.forward)
        for frame, *parts in zip(pixels.unbind(2), behind, maps, ahead, strict=True):
            yield F.leaky_relu(self.join(torch.cat(parts, 1)), SLOPE), frame

    def features(self, pixels: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, ...]:
        """A map [b c h w] of every frame by itself."""
        maps = self.extract(rearrange(pixels, "b c t h w -> (b t) c h w"))
        return maps.unflatten(0, (len(pixels), pixels.shape[2])).unbind(1)

    def flows(self, pixels: Float[Tensor, "b 3 t h w"]) -> Flows:
        """Flow between neighbouring frames, both ways."""
        batch, _, count, height, width = pixels.shape
        if self.spynet is None or count == 1:
            still = pixels.new_zeros(batch, count - 1, 2, height, width)
            return Flows(still, still)
        frames = rearrange(pixels, "b c t h w -> b t c h w")
        earlier, later = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
        backward = flow_in_parts(self.spynet, earlier, later).unflatten(0, (batch, count - 1))
        if is_mirrored(pixels):
            return Flows(backward.flip(1), backward)
        return Flows(flow_in_parts(self.spynet, later, earlier).unflatten(0, (batch, count - 1)), backward)

    def propagate(
        self,
        maps: Sequence[Float[Tensor, "b c h w"]],
        flows: Float[Tensor, "b s 2 h w"],
        backward: bool = False,
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """States of the frames in the order of the walk, from the last frame if backward.

        A state knows its own frame and those that were walked before it, and no other.
        """
        count, stride, attention = len(maps), self.config.stride, self.attention
        order = range(count - 1, -1, -1) if backward else range(count)
        steps = self.config.keyframe_stride
        keyframes = set(range(count - 1, 0, -steps) if backward else range(0, count, steps))
        state = torch.zeros_like(maps[0])
        batch, _, height, width = state.shape
        location = LocationMap.empty(batch, height // stride, width // stride, state.device)
        known = None
        for step, number in enumerate(order):
            feature = maps[number]
            if step:
                flow = flows[:, number if backward else number - 1]
                state = flow_warp(state, flow)
                if attention is not None and known is not None:
                    location = location.advance(F.avg_pool2d(flow, stride) / stride)
                    state = attention(feature, state, known, location.places)
            state = self.trunk(torch.cat([feature, state], 1))
            if attention is not None and number in keyframes:
                remembered = attention.remember(feature, state)
                known = remembered if known is None else known.then(remembered)
                location = location.add_keyframe()
            yield state

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> TTVSR:
        """The model of an official checkpoint, or of its generator alone.

        Args:
            state: names and tensors.
            config: what they do not tell: `stride`, `keyframe_stride`.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = rename_official(state)
        width = told(ours, "extract.0.weight").shape[0]
        facts: dict[str, Any] = {
            "channels": width,
            "extract": counted(ours, "extract.2."),
            "blocks": counted(ours, "trunk.2."),
            "attend": "attention.fuse.weight" in ours,
            "flow": "spynet" if any(name.startswith("spynet.") for name in ours) else "zero",
            "fine": told(ours, "reconstruction.last.weight").shape[1],
        }
        model = cls(replace(TTVSRConfig(), facts | config))
        load_strictly(model, ours)
        return model


def _check_flows(flows: Flows, pixels: Float[Tensor, "b 3 t h w"]) -> None:
    batch, _, count, height, width = pixels.shape
    wanted = (batch, count - 1, 2, height, width)
    for name, flow in zip(Flows._fields, flows, strict=True):
        if flow.shape != wanted:
            raise MediaError(f"the {name} flow is of shape {tuple(flow.shape)}; this clip needs {wanted}")
        if not flow.is_meta and not flow.isfinite().all():
            raise MediaError(f"the {name} flow holds values that are not finite: compute it again")


RENAMES = (
    (r"^generator\.", ""),
    (r"^feat_extractor\.main\.", "extract."),
    (r"^resblocks\.main\.", "trunk."),
    (r"^LTAM\.fusion\.", "attention.fuse."),
    (r"^fusion\.", "join."),
    (r"^upsample1\.upsample_conv\.", "reconstruction.first."),
    (r"^upsample2\.upsample_conv\.", "reconstruction.second."),
    (r"^conv_hr\.", "reconstruction.detail."),
    (r"^conv_last\.", "reconstruction.last."),
)


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names of a model, or of its SPyNet alone → ours; what is no weight is left out."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        if name == "step_counter" or re.fullmatch(r"(spynet\.)?(mean|std)", name):
            continue
        name = re.sub(
            r"basic_module\.(\d)\.basic_module\.(\d)\.conv\.",
            lambda found: f"levels.{found[1]}.{2 * int(found[2])}.",
            name,
        )
        renamed[name] = tensor
    return renamed
