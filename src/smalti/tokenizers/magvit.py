"""MAGVIT-v2: a causal 3D convolutional tokenizer whose codes are signs, for pictures and video alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.causal_conv import CausalConv3d, State, in_parts
from smalti.nn.magvit_conv import (
    AdaptiveGroupNorm,
    DepthToSpaceTime,
    Pooled,
    PooledGroupNorm,
    ResidualBlock3d,
)
from smalti.nn.magvit_names import inflated, our_names
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.quantizers.base import Quantized
from smalti.quantizers.lfq import LFQ, LFQConfig
from smalti.registry import Official, Paper, replace, system
from smalti.tokenizers.base import Reconstruction, Stream
from smalti.tokenizers.causal import CausalTokenizer
from smalti.tokenizers.extent import fit

KERNEL = 3


@dataclass(frozen=True)
class MagvitConfig:
    """Attributes:
    channels: of the finest level.
    multipliers: of the channels, from the finest level to the coarsest; each step halves rows and columns.
    time_down: which steps halve the frames too; none makes a model of single frames, with flat kernels.
    blocks: residual blocks of a level.
    groups: of all norms.
    pooled: the norms' statistics: of every frame, which streams, or of the clip, as in the official weights,
        which looks at later frames and so cannot stream.
    quantizer: bits, and weights of its loss.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    time_down: tuple[bool, ...] = (False, True, True)
    blocks: int = 4
    groups: int = 32
    pooled: Pooled = "frame"
    quantizer: LFQConfig = field(default_factory=lambda: LFQConfig(epsilon=1e-5))

    def __post_init__(self) -> None:
        if len(self.time_down) != len(self.multipliers) - 1:
            raise ConfigError(
                f"{len(self.multipliers)} levels have {len(self.multipliers) - 1} steps between them, but "
                f"time_down tells {len(self.time_down)}"
            )
        if any(self.channels * factor % self.groups for factor in self.multipliers):
            raise ConfigError(f"{self.groups} groups must divide {self.channels} times {self.multipliers}")
        if self.pooled not in ("frame", "clip"):
            raise ConfigError(f"norms are pooled over the frame or the clip, not {self.pooled!r}")

    @property
    def kernel(self) -> tuple[int, int, int]:
        """Of most convolutions: flat where no frames are joined."""
        return (KERNEL if any(self.time_down) else 1, KERNEL, KERNEL)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.channels * factor for factor in self.multipliers)


def residual_blocks(config: MagvitConfig, channels: int, out: int) -> nn.ModuleList:
    """A level's blocks; the first changes the channels."""
    return nn.ModuleList(
        ResidualBlock3d(
            out if number else channels, out, CausalConv3d, config.kernel, config.groups, config.pooled
        )
        for number in range(config.blocks)
    )


class MagvitEncoder(nn.Module):
    """Pixels in [-1, 1] to latents: levels of residual blocks with strided convolutions between."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = config.widths
        self.enter = CausalConv3d(3, config.channels, config.kernel, bias=False)
        self.levels = nn.ModuleList(
            residual_blocks(config, before, width)
            for before, width in zip((config.channels, *widths[:-1]), widths, strict=True)
        )
        self.down = nn.ModuleList(
            CausalConv3d(width, width, config.kernel, (1 + time, 2, 2))
            for width, time in zip(widths[:-1], config.time_down, strict=True)
        )
        self.middle = residual_blocks(config, widths[-1], widths[-1])
        self.norm = PooledGroupNorm(widths[-1], config.groups, config.pooled)
        self.leave = CausalConv3d(widths[-1], config.quantizer.bits, (1, 1, 1))

    def forward(self, x: Float[Tensor, "b 3 t h w"], state: State | None = None) -> Tensor:
        """Latents [b bits t' h' w'] of the next part."""
        x = self.enter(x, state)
        for number, level in enumerate(self.levels):
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, state)
            if number < len(self.down):
                x = self.down[number](x, state)
        for block in self.middle:
            x = block(x, state)
        return self.leave(F.silu(self.norm(x)), state)


class MagvitDecoder(nn.Module):
    """Codes to pixels in [-1, 1]; before every level the codes' statistics scale and shift the map."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths, bits = config.widths[::-1], config.quantizer.bits
        before = (widths[0], *widths[:-1])
        self.enter = CausalConv3d(bits, widths[0], config.kernel)
        self.middle = residual_blocks(config, widths[0], widths[0])
        self.adaptive = nn.ModuleList(
            AdaptiveGroupNorm(bits, width, config.groups, config.pooled) for width in before
        )
        self.levels = nn.ModuleList(
            residual_blocks(config, old, width) for old, width in zip(before, widths, strict=True)
        )
        self.up = nn.ModuleList(
            DepthToSpaceTime(width, (1 + time, 2, 2), config.kernel)
            for width, time in zip(widths[:-1], config.time_down[::-1], strict=True)
        )
        self.norm = PooledGroupNorm(widths[-1], config.groups, config.pooled)
        self.leave = CausalConv3d(widths[-1], 3, config.kernel)

    def forward(self, codes: Float[Tensor, "b bits t h w"], state: State | None = None) -> Tensor:
        """Pixels [b 3 t' h' w'] of the next part."""
        x = self.enter(codes, state)
        for block in self.middle:
            x = block(x, state)
        for number, level in enumerate(self.levels):
            x = self.adaptive[number](x, codes, state)
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, state)
            if number < len(self.up):
                x = self.up[number](x, state)
        return self.leave(F.silu(self.norm(x)), state)


VIDEO = MagvitConfig()
PICTURE = MagvitConfig(multipliers=(1, 1, 2, 2, 4), time_down=(False,) * 4)


@system(
    "magvit",
    room="tokenizers",
    paper=Paper(
        "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation",
        2023,
        "https://arxiv.org/abs/2310.05737",
    ),
    official=Official("TencentARC/SEED-Voken", "Apache-2.0"),
    presets={
        "ucf101_lfqgan_128_L": VIDEO,
        "imagenet_lfqgan_256_L": PICTURE,
        "imagenet_lfqgan_128_L": MagvitConfig(time_down=(False,) * 3),
        "pretrain_lfqgan_256_16384": MagvitConfig(
            multipliers=(1, 1, 2, 2, 4),
            time_down=(False,) * 4,
            quantizer=LFQConfig(14, epsilon=1e-5),
        ),
    },
    tags=("image", "video", "discrete", "causal", "lookup-free"),
)
class Magvit(CausalTokenizer):
    """Pictures and clips as signs of a causal 3D network's latents (MAGVIT-v2: Yu et al., 2023, 2310.05737).

    ```
    pixels [b 3 1+4k h w] ─► MagvitEncoder ─► latents [b 18 1+k h/8 w/8] ─► signs ─► ids in 0..2^18 - 1
    pixels ◄──────────────── MagvitDecoder ◄─────────────────────────────── signs ◄──┘
    ```
    The first frame stands by itself, so pictures share the codebook; `time_down` without a single True is a
    tokenizer of pictures, which takes every frame of a clip by itself. Inside, pixels are in [-1, 1].
    Official weights (Open-MAGVIT2, 2024, arXiv 2409.04410) normalise over whole clips: `from_official` sets
    `pooled="clip"` for video, and such a model looks at later frames and refuses to stream. `inflate` starts
    a model of video from one of pictures.

    Raises:
        ConfigError: levels and steps that do not fit, or a stream of a model that is not causal.
    """

    def __init__(self, config: MagvitConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MagvitConfig()
        side = 2 ** len(config.time_down)
        self.compression = (2 ** sum(config.time_down), side, side)
        self.causal = config.pooled == "frame"
        self.encoder, self.decoder = MagvitEncoder(config), MagvitDecoder(config)
        self.quantizer = LFQ(config.quantizer)
        self.codebook_sizes = self.quantizer.codebook_sizes

    def latents(self, video: Float[Tensor, "b 3 t h w"], state: State | None = None) -> Tensor:
        """Latents [b bits t' h' w'] of pixels in [-1, 1]."""
        return self.encoder(video, state)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> tuple[Float[Tensor, "b 3 t h w"], Quantized]:
        """Reconstruction and codes of 1 + k·period frames in [-1, 1], for training."""
        found = self.quantizer(self.latents(video).movedim(1, -1))
        return self.decoder(found.values.to(video.dtype).movedim(-1, 1)), found

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size."""
        padded, _ = fit(pixels, self.compression, head=1)
        frames, found = self.forward(2 * padded - 1)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        parts = {name: each.mean() for name, each in found.stats.items()}
        return Reconstruction((cropped + 1) / 2, found.loss, parts)

    def encode_part(self, pixels: Float[Tensor, "b 3 t h w"], state: State) -> Int[Tensor, "b s i j 1"]:
        """Ids of the next frames."""
        video = (pixels * 2 - 1).to(self.encoder.enter.weight.dtype)
        latents = self._in_parts(lambda part: self.latents(part, state), video, state, self.compression[0])
        return self.quantizer(latents.movedim(1, -1)).ids

    def decode_part(self, codes: Int[Tensor, "b s i j 1"], state: State) -> Float[Tensor, "b 3 t h w"]:
        """Frames of the next ids."""
        signs = self.quantizer.lookup(codes).movedim(-1, 1).to(self.decoder.enter.weight.dtype)
        return self._in_parts(lambda part: self.decoder(part, state), signs, state, 1) / 2 + 0.5

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives.

        Raises:
            ConfigError: norms that are pooled over the clip.
        """
        if not self.causal:
            raise ConfigError(
                'norms pooled over the clip are not causal: build with pooled="frame" to stream'
            )
        return super().stream()

    def _in_parts(self, function, whole: Tensor, state: State, size: int) -> Tensor:
        if not self.causal:
            return function(whole)
        return in_parts(function, whole, axis=2, head=0 if state else 1, size=size)

    @torch.no_grad()
    def inflate(self, pictures: Magvit) -> Magvit:
        """Take over the weights of a model of pictures: its kernels become the last frame of ours.

        A still clip then gives in every frame what the picture gives, wherever frames are not joined.

        Raises:
            ConfigError: levels, channels or bits that differ.
        """
        load_strictly(self, inflated(pictures.state_dict(), self.state_dict()))
        return self

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, groups: int = 32, ema: bool = True, **changes: Any
    ) -> Magvit:
        """A model with the weights of an Open-MAGVIT2 checkpoint, of pictures or of video.

        Args:
            state: its tensors; discriminators and losses in it are passed over.
            groups: of the norms, which no tensor tells.
            ema: take the running mean of the weights, where the checkpoint holds it.
            changes: further fields of the configuration.

        Raises:
            ConfigError: tensors that do not fit.
        """
        ours = our_names(state, ema)
        enter = told(ours, "encoder.enter.weight")
        levels = numbered(ours, r"encoder\.levels\.(\d+)\.")
        widths = [told(ours, f"encoder.levels.{level}.0.conv2.weight").shape[0] for level in levels]
        up = [told(ours, f"decoder.up.{level}.conv.weight") for level in levels[:-1]]
        time_down = tuple(weight.shape[0] == 8 * weight.shape[1] for weight in reversed(up))
        bits = told(ours, "decoder.enter.weight").shape[1]
        config = MagvitConfig(
            channels=enter.shape[0],
            multipliers=tuple(width // enter.shape[0] for width in widths),
            time_down=time_down,
            blocks=len(numbered(ours, r"encoder\.middle\.(\d+)\.")),
            groups=groups,
            pooled="clip" if any(time_down) else "frame",
            quantizer=LFQConfig(bits, epsilon=1e-5, group_bits=min(bits, 18)),
        )
        model = cls(replace(config, changes))
        load_strictly(model, ours)
        return model
