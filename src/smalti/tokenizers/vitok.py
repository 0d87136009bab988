"""ViTok: a plain vision transformer that encodes and decodes continuous latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError, nearest
from smalti.nn.flops import count_flops
from smalti.nn.rotary_vit import RotaryTransformer
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.quantizers.base import Quantized
from smalti.quantizers.variational import VariationalConfig
from smalti.registry import Official, Paper, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.extent import fit
from smalti.tokenizers.grids import GridTokenizer
from smalti.tokenizers.vitok_places import (
    FIXED,
    Grid,
    PlaceTable,
    Positions,
    Rotary,
    Turns,
    positions_of,
)

HEADS = {768: 12, 1152: 16, 1296: 16, 1312: 16}  # of the official widths


@dataclass(frozen=True)
class ViTokConfig:
    """Attributes:
    width: channels of both transformers.
    encoder_depth, decoder_depth: their blocks.
    heads: of the attention.
    tube, patch: frames, and rows and columns, of a token.
    channels: of a latent; a clip's code is tokens · channels numbers, which alone rules the quality.
    rotary: positions by which queries and keys turn: counted in one row (`1d_axial`), by column and row of a
        frame (`2d_axial`), or in learned directions of it (`2d_mixed`).
    rotary_base: of the wavelengths; the official code has 100 for `2d_axial`.
    positions: added to tokens on both sides: none, fixed waves, `learned`, or `dec`, learned and in the
        decoder alone.
    grid: frames, rows and columns that learned positions are made for; resampled for others.
    block_causal: no frame of tokens sees a later one.
    variational: latents are drawn from a posterior in training.
    kl: weight of its divergence, mean over tokens and channels; the official videos have
        0.0003 · 4096 / (tokens · channels).
    """

    width: int = 768
    encoder_depth: int = 6
    decoder_depth: int = 12
    heads: int = 12
    tube: int = 1
    patch: int = 16
    channels: int = 16
    rotary: Rotary = "1d_axial"
    rotary_base: float = 10000.0
    positions: Positions = "nope"
    grid: tuple[int, int, int] = (1, 16, 16)
    block_causal: bool = False
    variational: bool = True
    kl: float = 1e-3

    def __post_init__(self) -> None:
        if self.rotary not in get_args(Rotary):
            raise ConfigError(f"no rotary {self.rotary!r}: {nearest(self.rotary, get_args(Rotary))}")
        if self.positions not in get_args(Positions):
            raise ConfigError(
                f"no positions {self.positions!r}: {nearest(self.positions, get_args(Positions))}"
            )
        multiple = {"none": 1, "1d_axial": 2}.get(self.rotary, 4)
        if self.width % self.heads or self.width // self.heads % multiple:
            raise ConfigError(
                f"{self.heads} heads must divide {self.width} channels into multiples of {multiple}"
            )
        if min(self.tube, self.patch, self.channels, self.encoder_depth, self.decoder_depth) < 1:
            raise ConfigError(f"sizes and depths must be at least 1: {self}")


def _large(encoder_depth: int, tube: int = 1) -> ViTokConfig:
    return ViTokConfig(1152, encoder_depth, 24, 16, tube)


def _video(tube: int, patch: int, channels: int = 16) -> ViTokConfig:
    return ViTokConfig(tube=tube, patch=patch, channels=channels, positions="sincos3d", kl=3e-4)


@system(
    "vitok",
    room="tokenizers",
    paper=Paper(
        "Learnings from Scaling Visual Tokenizers for Reconstruction and Generation",
        2025,
        "https://arxiv.org/abs/2501.09755",
    ),
    official=Official("philippe-eecs/vitok", "MIT"),
    presets={
        "S-B/1x16": ViTokConfig(),
        "S-S/1x16": ViTokConfig(decoder_depth=6),
        "B-B/1x16": ViTokConfig(encoder_depth=12),
        "S-L/1x16": _large(6),
        "B-L/1x16": _large(12),
        "L-L/1x16": _large(24),
        "S-B/4x8": _video(4, 8),
        "S-B/8x8": _video(8, 8),
        "S-B/4x16": _video(4, 16),
    },
    tags=("image", "video", "continuous", "vision-transformer"),
)
class ViTok(GridTokenizer):
    """ViTok (Hansen-Estruch et al., 2025): two vision transformers with narrow Gaussian latents between.

    ```
    clip [b 3 t h w] ─► tubes [b n width] ─► encoder ─► mean, log variance [b n 2c] ─► latents [b n c]
    clip ◄── transposed tubes ◄── decoder [b n width] ◄── to width ◄──────────────────────┘
    ```
    Frames lie in [-1, 1] inside. "S-B/1x16": encoder S, decoder B, tubes of 1 frame, patches of 16; both have
    the decoder's width. 256×256 pixels are 256 tokens of 16 numbers. Official training, stage 1: L2 + 0.1 L1
    + LPIPS (0.1 for videos) + kl · KL, AdamW (0.9, 0.95), 1e-4 at 256 pictures, 100 k steps; stage 2, after
    `freeze_encoder`: the same with a GAN on the decoder.

    Deviations: the official code asks for block-causal attention and never applies it; `block_causal` does,
    in both transformers. For clips, `2d_axial` counts columns and rows of every frame (official: no clips).
    The later one-dimensional queries and nested lengths of the code are left out. No weights are public.

    Raises:
        MediaError: pixels that mean nothing.
    """

    def __init__(self, config: ViTokConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or ViTokConfig()
        self.compression = (config.tube, config.patch, config.patch)
        self.embed = nn.Conv3d(3, config.width, self.compression, self.compression)
        self.encoder = RotaryTransformer(config.width, config.encoder_depth, config.heads)
        moments = 2 * config.channels if config.variational else config.channels
        self.encoder_to_code = nn.Linear(config.width, moments)
        self.code_to_decoder = nn.Linear(config.channels, config.width)
        self.decoder = RotaryTransformer(config.width, config.decoder_depth, config.heads)
        self.restore = nn.ConvTranspose3d(config.width, 3, self.compression, self.compression)
        posterior = VariationalConfig(config.channels, config.kl / config.channels)
        self.posterior = posterior.build() if config.variational else None
        self.encoder_places, self.decoder_places = (
            PlaceTable(positions, config.width, config.grid)
            for positions in ("nope" if config.positions == "dec" else config.positions, config.positions)
        )
        size = (config.width // config.heads, config.heads)
        self.encoder_turns = Turns(config.rotary, config.rotary_base, *size, config.encoder_depth)
        self.decoder_turns = Turns(config.rotary, config.rotary_base, *size, config.decoder_depth)
        self.apply(_initialise)
        nn.init.xavier_uniform_(self.embed.weight.view(config.width, -1))

    def moments(self, clip: Float[Tensor, "b 3 t y x"]) -> tuple[Float[Tensor, "b n c"], Grid]:
        """Means and log variances side by side, or codes, of a clip in [-1, 1]; and its grid."""
        x = self.embed(clip.to(self.embed.weight.dtype))
        grid = (x.shape[2], x.shape[3], x.shape[4])
        x = rearrange(x, "b d t h w -> b (t h w) d")
        x = self.encoder_places(x, grid)
        x = self.encoder(x, self.encoder_turns(grid, x.device), self._parts(grid))
        return self.encoder_to_code(x), grid

    def rebuild(self, latents: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b 3 t y x"]:
        """A clip in [-1, 1], not clamped."""
        x = self.code_to_decoder(latents.to(self.code_to_decoder.weight.dtype))
        x = self.decoder_places(x, grid)
        x = self.decoder(x, self.decoder_turns(grid, x.device), self._parts(grid))
        return self.restore(rearrange(x, "b (t h w) d -> b d t h w", t=grid[0], h=grid[1]))

    def forward(self, clip: Float[Tensor, "b 3 t y x"]) -> tuple[Float[Tensor, "b 3 t y x"], Quantized]:
        """For training: the reconstruction; and latents, drawn in training, with their weighted divergence.

        Args:
            clip: in [-1, 1], frames and sides multiples of the tube and patch.
        """
        moments, grid = self.moments(clip)
        latents = self._latents(moments)
        return self.rebuild(latents.values, grid), latents

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size."""
        padded, _ = fit(pixels, self.compression)
        frames, found = self.forward(2 * padded - 1)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        return Reconstruction(
            (cropped + 1) / 2, found.loss, {name: each.mean() for name, each in found.stats.items()}
        )

    def encode_grid(self, pixels: Float[Tensor, "b 3 t y x"]) -> Float[Tensor, "b f h w c"]:
        """Means of the latents of pixels in [0, 1]."""
        moments, grid = self.moments(2 * pixels - 1)
        return moments[..., : self.config.channels].float().unflatten(1, grid)

    def decode_grid(self, codes: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b 3 t y x"]:
        """Pixels of latents."""
        grid = (codes.shape[1], codes.shape[2], codes.shape[3])
        return (self.rebuild(codes.flatten(1, 3), grid) + 1) / 2

    def freeze_encoder(self) -> None:
        """Leave all that makes latents as it is, for the second stage of training."""
        for part in (self.embed, self.encoder, self.encoder_to_code, self.encoder_places, self.encoder_turns):
            part.requires_grad_(False)

    def floating_points(self, frames: int, height: int, width: int) -> int:
        """Numbers in the code of a clip of this size: E in the paper, tokens · channels."""
        sides = zip((frames, height, width), self.compression, strict=True)
        return prod(-(-length // step) for length, step in sides) * self.config.channels

    def flops(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of encoding and decoding a clip [b 3 t h w] of whole tubes and patches."""

        def both_ways() -> None:
            moments, grid = self.moments(torch.zeros(shape, device=self.embed.weight.device))
            self.rebuild(moments[..., : self.config.channels], grid)

        with torch.no_grad():
            return count_flops(both_ways)

    def _parts(self, grid: Grid) -> int:
        return grid[0] if self.config.block_causal else 1

    def _latents(self, moments: Float[Tensor, "b n c"]) -> Quantized:
        if self.posterior is not None:
            return self.posterior(moments)
        none = torch.empty(*moments.shape[:-1], 0, dtype=torch.long, device=moments.device)
        return Quantized(moments.float(), none, moments.new_zeros(()).float())

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        rotary: Rotary = "1d_axial",
        rotary_base: float = 10000.0,
        grid: Grid | None = None,
        block_causal: bool = False,
    ) -> ViTok:
        """The model of a checkpoint of the authors' code; its sizes are read from it.

        Args:
            state: names and tensors.
            heads: as the official width has, when not given.
            rotary, rotary_base, block_causal: fields of the configuration that tensors do not tell.
            grid: of the positions, where there are any; that of a square picture when not given.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        embed = told(state, "tubelet_embed.proj.weight")
        width, channels = told(state, "code_to_decoder.weight").shape
        positions, grid = positions_of(state, grid, width)
        model = cls(
            ViTokConfig(
                width=width,
                encoder_depth=len(numbered(state, r"encoder\.blocks\.(\d+)\.")),
                decoder_depth=len(numbered(state, r"decoder\.blocks\.(\d+)\.")),
                heads=heads or HEADS.get(width, max(width // 64, 1)),
                tube=embed.shape[2],
                patch=embed.shape[3],
                channels=channels,
                rotary="2d_mixed" if "enc_freqs" in state else rotary,
                rotary_base=rotary_base,
                positions=positions,
                grid=grid,
                block_causal=block_causal,
                variational=len(told(state, "encoder_to_code.weight")) == 2 * channels,
            )
        )
        named = {re.sub("|".join(NAMES), lambda found: NAMES[found[0]], k): x for k, x in state.items()}
        if positions in FIXED:
            named = {name: tensor for name, tensor in named.items() if not name.endswith("_places.table")}
        load_strictly(model, named)
        return model


NAMES = {  # of the official modules, and ours
    "tubelet_embed.proj": "embed",
    "tubelet_decode.proj": "restore",
    "dec_posemb": "decoder_places.table",
    "posemb": "encoder_places.table",
    "enc_freqs": "encoder_turns.directions",
    "dec_freqs": "decoder_turns.directions",
}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
