"""FlexTok: a picture as ordered tokens, of which any first ones decode to a likely picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.flow_sampling import ProjectedGuidance, classifier_free
from smalti.nn.latent_autoencoder import LatentAutoencoder, LatentAutoencoderConfig, from_diffusers
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.registry import Official, Paper, replace, system
from smalti.tokenizers.flextok_resampler import FlexTokResampler, FlexTokResamplerConfig
from smalti.tokenizers.tiled import TiledTokenizer


@dataclass(frozen=True)
class FlexTokConfig:
    """Attributes:
    resampler: registers and both transformers.
    autoencoder: pixels ⇄ latents; without one, pixels in [-1, 1] are the latents.
    steps: of sampling.
    guidance: away from no condition; 1 is none.
    projected: whether guidance is projected (APG), or plain.
    seed: of the noise that decoding begins with, so that equal tokens give equal pictures.
    """

    resampler: FlexTokResamplerConfig = field(default_factory=FlexTokResamplerConfig)
    autoencoder: LatentAutoencoderConfig | None = field(default_factory=LatentAutoencoderConfig)
    steps: int = 25
    guidance: float = 7.5
    projected: bool = True
    seed: int = 0


def _sized(encoder: int, decoder: int) -> FlexTokConfig:
    return FlexTokConfig(
        FlexTokResamplerConfig(
            encoder_dim=64 * encoder, encoder_depth=encoder, decoder_dim=64 * decoder, decoder_depth=decoder
        )
    )


@system(
    "flextok",
    room="tokenizers",
    paper=Paper(
        "FlexTok: Resampling Images into 1D Token Sequences of Flexible Length",
        2025,
        "https://arxiv.org/abs/2502.13967",
    ),
    official=Official("apple/ml-flextok", "Apple sample code licence"),
    presets={
        "flextok_d12_d12_in1k": _sized(12, 12),
        "flextok_d18_d18_in1k": _sized(18, 18),
        "flextok_d18_d28_in1k": _sized(18, 28),
        "flextok_d18_d28_dfn": _sized(18, 28),
    },
    tags=("image", "discrete", "1d", "ordered", "generative"),
)
class FlexTok(TiledTokenizer):
    """Ordered tokens with a decoder that follows a flow (FlexTok: Bachmann et al., 2025, arXiv 2502.13967).

    ```
    tile [m 3 1 256 256] ─► autoencoder ─► latents [m 16 32 32] ─► resampler ─► ids [m 256 1] of 64,000
    tile ◄── autoencoder ◄── latents ◄── 25 steps from seeded noise ◄── resampler ◄── the first k ids
    ```
    Pixels go in as [-1, 1]; every frame of a clip is encoded by itself. Few tokens give a picture of the same
    kind, all of them give the picture; PSNR stays near 18 dB, for details are drawn and not stored. Official
    defaults: 256 registers, levels (8, 8, 8, 5, 5, 5), width 64 · depth, guidance 7.5 projected. Trained by
    the flow's mean square (`resampler`), registers cut at a random rank, and the alignment of `Flow.features`
    with DINOv2's through an MLP of three layers; the autoencoder stays as it is.

    Differs from the official code: the autoencoder's posterior gives its mean and no draw, all tiles begin
    with the same noise, and muP's readout is a plain linear layer (`from_official` takes its factor).

    Raises:
        ConfigError: an autoencoder of other channels than the resampler's.
    """

    ordered = True

    def __init__(self, config: FlexTokConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: FlexTokConfig = replace(config or FlexTokConfig(), changes)
        inner, outer = self.config.resampler, self.config.autoencoder
        channels, factor = (3, 1) if outer is None else (outer.channels, outer.factor)
        if channels != inner.channels:
            raise ConfigError(f"latents have {channels} channels, but the resampler takes {inner.channels}")
        rows, columns = (side * inner.patch * factor for side in inner.grid)
        self.compression, self.length = (1, rows, columns), inner.registers
        self.autoencoder = LatentAutoencoder(outer) if outer is not None else None
        self.resampler = FlexTokResampler(inner)
        self.codebook_sizes = self.resampler.quantizer.codebook_sizes

    def latents(self, tiles: Float[Tensor, "m 3 1 s r"]) -> Float[Tensor, "m c h w"]:
        """Latents of tiles in [0, 1]."""
        pictures = (tiles[:, :, 0] * 2 - 1).to(self.resampler.registers.dtype)
        return pictures if self.autoencoder is None else self.autoencoder.encode(pictures)

    def noise(self, count: int) -> Float[Tensor, "count c h w"]:
        """What decoding begins with, the same for every tile."""
        config = self.config.resampler
        generator = torch.Generator().manual_seed(self.config.seed)
        shape = (config.channels, *(side * config.patch for side in config.grid))
        return torch.randn(shape, generator=generator).expand(count, *shape).to(self.resampler.registers)

    def encode_tiles(self, tiles: Float[Tensor, "m 3 t s r"]) -> Int[Tensor, "m k q"]:
        """The ids of every register."""
        return self.resampler.quantizer(self.resampler.read(self.latents(tiles))).ids

    def decode_tiles(self, codes: Int[Tensor, "m k q"]) -> Float[Tensor, "m 3 t s r"]:
        """Tiles of any first codes."""
        config, guide = self.config, None
        if config.guidance != 1:
            kind = ProjectedGuidance if config.projected else classifier_free
            guide = kind(config.guidance)
        values = self.resampler.quantizer.lookup(codes)
        found = self.resampler.sample(values, self.noise(len(codes)), config.steps, guide)
        pictures = found if self.autoencoder is None else self.autoencoder.decode(found)
        return pictures[:, :, None] / 2 + 0.5

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        scale: float = 1.0,
        readout: tuple[float, float] = (1.0, 1.0),
        levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5),
        size: int = 256,
    ) -> FlexTok:
        """The tokenizer of an official checkpoint.

        Args:
            state: names and tensors.
            scale: of the autoencoder's latents, as the checkpoint's metadata names it.
            readout: factors of width by which muP divides what enters the encoder's and the decoder's last
                layers.
            levels: of the rounding.
            size: of a tile's side.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        front = "vae.vae."
        outer = from_diffusers({k.removeprefix(front): t for k, t in state.items() if k.startswith(front)})
        numbers = numbered(outer, r"encoder\.levels\.(\d+)\.")
        widths = (told(outer, f"encoder.levels.{i}.blocks.0.conv2.weight").shape[0] for i in numbers)
        autoencoder = LatentAutoencoderConfig(
            channels=told(outer, "before_decoder.weight").shape[0],
            widths=tuple(widths),
            blocks=len(numbered(outer, r"encoder\.levels\.0\.blocks\.(\d+)\.")),
            scale=scale,
        )
        side = size // autoencoder.factor // 2
        inner = {k: t for k, t in state.items() if k.startswith(("encoder.", "decoder."))}
        resampler = FlexTokResampler.from_official(inner, levels=levels, grid=(side, side))
        with torch.no_grad():
            for layer, factor in zip((resampler.to_codes, resampler.leave), readout, strict=True):
                layer.weight /= factor
        model = cls(FlexTokConfig(resampler.config, autoencoder))
        model.resampler, model.autoencoder = resampler, LatentAutoencoder(autoencoder)
        load_strictly(model.autoencoder, outer)
        return model
