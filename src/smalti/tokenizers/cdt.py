"""CDT: a causal convolutional encoder, and a diffusion decoder that needs one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.causal_conv import Pad, State, in_parts
from smalti.nn.cdt_blocks import Enlarge
from smalti.nn.cdt_names import our_names
from smalti.nn.cdt_networks import ContextDecoder, Denoiser, Encoder
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.quantizers.base import Quantized
from smalti.quantizers.variational import Variational, VariationalConfig
from smalti.registry import Official, Paper, replace, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.causal import CausalTokenizer
from smalti.tokenizers.extent import fit

OFFSET, HIGHEST = 0.008, 0.999


@dataclass(frozen=True)
class CDTConfig:
    """Attributes:
    width: channels of the finest level of encoder and condition decoder.
    multipliers: of them, a level each.
    unet_width, unet_multipliers: the same of the denoiser.
    conditions: how many of its levels get a condition.
    finest: channels of the finest condition.
    quantizer: channels of the latents, and weight of their divergence from the normal.
    space_down, time_down: what each level halves at its end.
    pad: what stands before the first frame and around every frame.
    enlarge: how rows and columns are doubled.
    timesteps: of the diffusion.
    steps: of decoding, evenly spaced.
    gamma: size of the noise that decoding starts from.
    seed: of that noise, which is the same for every clip and every length.
    latent_scale: what generators multiply latents by.
    grids_at_once: latent frames in memory; results differ by rounding alone.
    forget_last: as the official base model in parts, whose last condition block forgets the part before.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    unet_width: int = 64
    unet_multipliers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    conditions: int = 4
    finest: int = 16
    quantizer: VariationalConfig = field(default_factory=VariationalConfig)
    space_down: tuple[bool, ...] = (False, True, True, True)
    time_down: tuple[bool, ...] = (False, False, True, True)
    pad: Pad = "zeros"
    enlarge: Enlarge = "nearest"
    timesteps: int = 8192
    steps: int = 1
    gamma: float = 0.8
    seed: int = 0
    latent_scale: float = 1.3
    grids_at_once: int = 1
    forget_last: bool = False

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        if not levels == len(self.space_down) == len(self.time_down) < len(self.unet_multipliers):
            raise ConfigError(
                f"{levels} levels need as many flags in space_down and time_down, and a denoiser of more"
            )
        if self.quantizer.of is not None:
            raise ConfigError("the latents of CDT are continuous: its quantizer quantizes no further")
        if not 1 <= self.conditions <= levels or not 1 <= self.steps <= self.timesteps:
            raise ConfigError(
                f"1 to {levels} conditions and 1 to {self.timesteps} steps fit, not "
                f"{self.conditions} and {self.steps}"
            )
        if self.grids_at_once < 1:
            raise ConfigError(f"grids_at_once must be at least 1, not {self.grids_at_once}")
        if self.pad not in ("zeros", "repeat") or self.enlarge not in ("nearest", "transposed"):
            raise ConfigError(f"no pad {self.pad!r} or no way to enlarge {self.enlarge!r}")


def kept_signal(timesteps: int) -> Float[Tensor, "n"]:
    """ᾱ of the cosine schedule (Nichol and Dhariwal, 2021, arXiv 2102.09672), from nearly 1 to nearly 0."""
    nodes = torch.linspace(0, timesteps + 1, timesteps + 1, dtype=torch.float64) / (timesteps + 1)
    curve = torch.cos((nodes + OFFSET) / (1 + OFFSET) * math.pi / 2).square()
    betas = (1 - curve[1:] / curve[:-1]).clamp(0, HIGHEST)
    return (1 - betas).cumprod(0).float()


BASE = CDTConfig()
SMALL = CDTConfig(
    width=64, finest=3, space_down=(True, True, True, False), pad="repeat", enlarge="transposed"
)


@system(
    "cdt",
    room="tokenizers",
    paper=Paper(
        "Rethinking Video Tokenization: A Conditioned Diffusion-based Approach",
        2025,
        "https://arxiv.org/abs/2503.03708",
    ),
    official=Official("ali-vilab/CDT", "MIT"),
    presets={"base": BASE, "small": SMALL},
    tags=("image", "video", "continuous", "causal", "diffusion"),
)
class CDT(CausalTokenizer):
    """Causal continuous latents, decoded by conditioned diffusion (CDT: Yang et al., 2025, 2503.03708).

    ```
    pixels [b 3 1+4k h w] ─► Encoder ─► mean, log variance ─► z [b 1+k h/8 w/8 16]
                                                              │
            γ · noise ─► Denoiser, predicts the video ◄─ c₀…c₃ ◄─ ContextDecoder
                            └──► pixels, in one step or by DDIM in more
    ```
    The noise of frame number n depends on `seed` and n alone: equal tokens give equal pixels, and a stream
    gives what the whole gives. Clips go through in parts of `grids_at_once`, so memory does not grow with
    length. Inside, pixels are in [-1, 1]. Deviations: convolutions start with random weights (the official
    ones with zeros); every part is computed in the precision of the weights.

    Raises:
        ConfigError: a configuration whose levels do not fit.
    """

    kept: Tensor

    def __init__(self, config: CDTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CDTConfig()
        side = 2 ** sum(config.space_down)
        self.compression = (2 ** sum(config.time_down), side, side)
        widths = tuple(config.width * factor for factor in config.multipliers)
        steps, latent = (config.space_down, config.time_down), config.quantizer.dim
        self.encoder = Encoder(widths, latent, *steps, config.pad)
        self.quantizer = Variational(config.quantizer)
        self.context = ContextDecoder(
            widths, latent, config.finest, *steps, config.pad, config.enlarge, config.forget_last
        )
        self.denoiser = Denoiser(
            config.unet_width,
            config.unet_multipliers,
            (config.finest, *widths[:-1])[: config.conditions],
            *steps,
            config.pad,
            config.enlarge,
        )
        self.register_buffer("kept", kept_signal(config.timesteps), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.denoiser.norm.weight.dtype

    def posterior(self, video: Float[Tensor, "b 3 t h w"], state: State | None = None) -> Quantized:
        """Latents [b t' h' w' z] of pixels in [-1, 1]: drawn in training, else their mean."""
        return self.quantizer(self.encoder(video, state).movedim(1, -1))

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> tuple[Float[Tensor, "b 3 t h w"], Quantized]:
        """What the denoiser makes of 1 + k·period frames in [-1, 1], noised at random times, for training."""
        found = self.posterior(video)
        context = self.context(found.values.to(video.dtype).movedim(-1, 1))
        index = torch.randint(self.config.timesteps, video.shape[:1], device=video.device)
        return self.denoiser(self.noised(video, index), index / self.config.timesteps, context), found

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """What the denoiser makes of frames noised at random times, of any size; L2 to them is CDT's loss."""
        padded, _ = fit(pixels, self.compression, head=1)
        frames, found = self.forward(2 * padded - 1)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        return Reconstruction((cropped + 1) / 2, found.loss)

    def noised(self, video: Float[Tensor, "b 3 t h w"], index: Int[Tensor, "b"]) -> Tensor:
        """√ᾱ · video + √(1 - ᾱ) · noise."""
        kept = self.kept[index][:, None, None, None, None].to(video.dtype)
        return kept.sqrt() * video + (1 - kept).sqrt() * torch.randn_like(video)

    def denoise(
        self,
        noise: Float[Tensor, "b 3 t h w"],
        context: list[Tensor],
        state: State | None = None,
        steps: int | None = None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """Video in [-1, 1] by DDIM (Song et al., 2020, arXiv 2010.02502); every step has its own past."""
        count = self.config.steps if steps is None else steps
        last = self.config.timesteps - 1
        indices = torch.linspace(0, last, count).long() if count > 1 else torch.tensor([last])
        clean = x = noise
        for number in range(count - 1, -1, -1):
            time = (indices[number] / self.config.timesteps).to(x).expand(len(x))
            past = None if state is None else state.setdefault(("step", number), {})
            clean = self.denoiser(x, time, context, past)
            if number:
                now, then = self.kept[indices[number]], self.kept[indices[number - 1]]
                rest = (x - now.sqrt() * clean) / (1 - now).sqrt()
                x = (then.sqrt() * clean + (1 - then).sqrt() * rest).to(x.dtype)
        return clean

    def noise(self, first: int, frames: int, height: int, width: int) -> Float[Tensor, "1 3 t h w"]:
        """γ times standard noise of some frames, whatever part of a clip they are asked for in."""
        drawn = [
            torch.randn(
                1, 3, 1, height, width, generator=torch.Generator().manual_seed(self.config.seed + number)
            )
            for number in range(first, first + frames)
        ]
        return self.config.gamma * torch.cat(drawn, 2)

    def encode_part(self, pixels: Float[Tensor, "b 3 t h w"], state: State) -> Float[Tensor, "b s i j z"]:
        """Latents of the next frames."""
        video = (pixels * 2 - 1).to(self.dtype)
        size, head = self.compression[0] * self.config.grids_at_once, 0 if state else 1

        def encode(part: Tensor) -> Tensor:
            return self.posterior(part, state).values.movedim(-1, 1)

        return in_parts(encode, video, axis=2, head=head, size=size).movedim(1, -1)

    def decode_part(self, codes: Float[Tensor, "b s i j z"], state: State) -> Float[Tensor, "b 3 t h w"]:
        """Frames of the next latents."""
        latents = codes.movedim(-1, 1).to(self.dtype)

        def decode(part: Tensor) -> Tensor:
            context = self.context(part, state)
            frames, height, width = context[0].shape[2:]
            first = state.get("frames", 0)
            state["frames"] = first + frames
            noise = self.noise(first, frames, height, width).to(part).expand(len(part), -1, -1, -1, -1)
            return self.denoise(noise, context, state)

        head = 0 if state else 1
        return in_parts(decode, latents, axis=2, head=head, size=self.config.grids_at_once) / 2 + 0.5

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **changes: Any) -> CDT:
        """A model with the weights of an official checkpoint.

        Args:
            state: its tensors.
            changes: fields of the configuration. No tensor tells `pad` and `enlarge`: zeros and "nearest"
                where the finest level is not halved, as in the base model, else as in the small one.

        Raises:
            ConfigError: tensors that do not fit.
        """
        ours = our_names(state)
        levels = numbered(ours, r"encoder\.levels\.(\d+)\.")
        widths = [told(ours, f"encoder.levels.{level}.block.conv1.weight").shape[0] for level in levels]
        unet = numbered(ours, r"denoiser\.down\.(\d+)\.")
        unet_widths = [told(ours, f"denoiser.down.{level}.first.conv1.weight").shape[0] for level in unet]
        base = f"encoder.levels.{levels[0] if levels else 0}.space.weight" not in ours
        last = f"context.levels.{len(levels) - 1}.space."
        finest = last + ("conv1.bias" if last + "conv1.bias" in ours else "conv.bias")
        config = CDTConfig(
            width=widths[0] if widths else 0,
            multipliers=tuple(width // widths[0] for width in widths),
            unet_width=unet_widths[0] if unet_widths else 0,
            unet_multipliers=tuple(width // unet_widths[0] for width in unet_widths),
            finest=told(ours, finest).shape[0],
            quantizer=VariationalConfig(told(ours, "context.direct.weight").shape[1]),
            space_down=tuple(f"encoder.levels.{level}.space.weight" in ours for level in levels),
            time_down=tuple(f"encoder.levels.{level}.time.weight" in ours for level in levels),
            pad="zeros" if base else "repeat",
            enlarge="nearest" if base else "transposed",
        )
        model = cls(replace(config, changes))
        load_strictly(model, ours)
        return model
