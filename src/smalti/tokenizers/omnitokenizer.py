"""OmniTokenizer: one causal transformer for pictures and videos, with codes or continuous latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.causal_conv import State
from smalti.nn.cvivit_names import public_weights
from smalti.nn.factorised_video import (
    FrameWindows,
    Layer,
    Layers,
    PlaceConvolution,
    SpaceAttention,
    TimeAttention,
    VideoDecoder,
    VideoEncoder,
)
from smalti.nn.frame_and_tubes import VideoPatches, VideoPixels
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.quantizers.base import Quantized, QuantizerConfig
from smalti.quantizers.variational import VariationalConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Official, Paper, system
from smalti.tokenizers.base import Reconstruction, Stream, Tokenizer
from smalti.tokenizers.causal import CausalTokenizer
from smalti.tokenizers.extent import fit

CODES = VectorQuantizerConfig(8192, 8, init="data", epsilon=1e-7)
LATENTS = VariationalConfig(8, 1e-6)

NAMES = [  # of the official modules, and ours; the rest is in `public_weights`
    (r"attention\.qkv\.", "attention.within.qkv."),
    (r"attention\.proj\.", "attention.within.proj."),
    (r"attention\.relative_position_bias_table$", "attention.within.bias.table"),
    (r"^pre_vq_conv\.1\.", "into."),
    (r"^post_vq_conv\.1\.", "out."),
]
TRAINING_ALONE = r"(image_discriminator|video_discriminator|perceptual_model)\."
UNUSED = r"relative_position_index$|time\.layers\.\d+\.attention\.bias\."


@dataclass(frozen=True)
class OmniTokenizerConfig:
    """Attributes:
    dim: channels of the transformers.
    patch: side of a patch, in pixels.
    tube: frames of a token, but for the first; the official pictures' stage has 2.
    encoder_blocks, decoder_blocks: a letter for every layer along space: `t` asks the frame, `w` a window.
    time_depth: layers along time, of the encoder and again of the decoder.
    heads, dim_head: of the attention.
    window: side, in tokens.
    places: along space: `rope` turns queries and keys, `rel` adds a continuous bias.
    quantizer: of the codes, or `VariationalConfig` for continuous latents.
    lookback: grids that attention along time sees, its own with them; all when not given, and then the
        memory of a stream grows with its length.
    position_biases: add the `rel` bias and ALiBi to the logits. The official fused attention leaves both
        out, and all official weights but `imagenet_only` were trained with it.
    pixel_norm: the official norm over the pixels of a patch, which takes off its brightness and contrast.
    scrambled_peg: the official convolution along time on a grid in the wrong order, which looks into the
        future; official weights need it.
    """

    dim: int = 512
    patch: int = 8
    tube: int = 4
    encoder_blocks: str = "ttww"
    decoder_blocks: str = "tttt"
    time_depth: int = 4
    heads: int = 8
    dim_head: int = 64
    window: int = 8
    places: Literal["rope", "rel"] = "rope"
    quantizer: QuantizerConfig = CODES
    lookback: int | None = 32
    position_biases: bool = True
    pixel_norm: bool = False
    scrambled_peg: bool = False

    def __post_init__(self) -> None:
        if set(self.encoder_blocks + self.decoder_blocks) - {"t", "w"}:
            raise ConfigError(f"blocks are t or w, not {self.encoder_blocks!r} and {self.decoder_blocks!r}")
        if self.places not in ("rope", "rel"):
            raise ConfigError(f"no places {self.places!r}: choose rope or rel")
        if self.places == "rope" and self.dim_head % 4:
            raise ConfigError(f"rope needs dim_head to be a multiple of 4, not {self.dim_head}")
        if "w" in self.encoder_blocks + self.decoder_blocks and self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels in windows")
        sizes = (self.dim, self.patch, self.tube, self.heads, self.dim_head, self.window, self.lookback or 1)
        if min(sizes) < 1:
            raise ConfigError(f"sizes must be at least 1: {self}")


@system(
    "omnitokenizer",
    room="tokenizers",
    paper=Paper(
        "OmniTokenizer: A Joint Image-Video Tokenizer for Visual Generation",
        2024,
        "https://arxiv.org/abs/2406.09399",
    ),
    official=Official("FoundationVision/OmniTokenizer", "MIT"),
    presets={
        "imagenet_k600": OmniTokenizerConfig(),
        "imagenet_k600_vae": OmniTokenizerConfig(quantizer=LATENTS),
        "imagenet_only": OmniTokenizerConfig(tube=2, places="rel"),
    },
    tags=("image", "video", "discrete", "continuous", "causal"),
)
class OmniTokenizer(CausalTokenizer):
    """OmniTokenizer (Wang et al., 2024): pictures and videos by one set of weights, as codes or latents.

    ```
    frames [b 3 1+k·tube h w] ─► patches, tubes ─► space layers (frame, windows) ─► causal time layers ─► into
                                                                                           codes or latents │
    frames ◄── patches, tubes ◄── space layers ◄── causal time layers ◄── out ◄── [b 1+k h' w'] ────────────┘
    ```
    Codes are those nearest to latents of length 1, in a codebook that moves with them; a picture of 256×256
    is 1,024 of them, 17 frames are 5,120. Inside, frames lie in [-1, 1]. Official training: pictures first
    (500 k steps, 1e-3), then pictures and videos in turn at 0.5 to 1.25 times the size (5e-5), then with the
    KL loss; Adam (0.5, 0.9), clip 1.0; 4 L1 + codes + 4 LPIPS + adversarial 0.01 + 4 feature matching.

    Deviations: pictures and clips of any size (official: square), where windows at the edge are smaller;
    time looks back `lookback` grids, so that a stream's memory is bounded (no difference up to 125 frames);
    the official quirks named in `OmniTokenizerConfig` are off, and on where `from_official` reads weights.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: `stream` with a scrambled PEG, which is not causal.
    """

    def __init__(self, config: OmniTokenizerConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or OmniTokenizerConfig()
        self.compression = (config.tube, config.patch, config.patch)
        self.causal = not config.scrambled_peg
        patches = VideoPatches(config.dim, config.patch, config.tube, config.pixel_norm)
        pixels = VideoPixels(config.dim, config.patch, config.tube)
        self.encoder = VideoEncoder(patches, _along_space(config, config.encoder_blocks), _along_time(config))
        self.decoder = VideoDecoder(_along_time(config), _along_space(config, config.decoder_blocks), pixels)
        self.quantizer = config.quantizer.build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        self.into = nn.Linear(config.dim, self.quantizer.channels)
        self.out = nn.Linear(self.quantizer.dim, config.dim)
        self.apply(_initialise)

    @property
    def continuous(self) -> bool:
        """Whether tokens are values, not codes."""
        return not self.codebook_sizes

    def latents(
        self, frames: Float[Tensor, "b 3 f y x"], state: State | None = None
    ) -> Float[Tensor, "b t h w c"]:
        """What the quantizer takes of the next frames in [-1, 1]: of length 1 where it gives codes."""
        z = self.into(self.encoder(frames, state))
        return z if self.continuous else F.normalize(z, dim=-1)

    def rebuild(
        self, latents: Float[Tensor, "b t h w c"], state: State | None = None
    ) -> Float[Tensor, "b 3 f y x"]:
        """Frames in [-1, 1], not clamped, of what the quantizer gives."""
        return self.decoder(self.out(latents.to(self.out.weight.dtype)), state)

    def forward(self, frames: Float[Tensor, "b 3 f y x"]) -> tuple[Float[Tensor, "b 3 f y x"], Quantized]:
        """For training: the reconstruction, and the codes or latents with their loss.

        The divergence of latents is summed over a clip and weighted by the quantizer's `kl`, as official.

        Args:
            frames: 1 + k·tube in [-1, 1], their sides multiples of the patch.
        """
        z = self.latents(frames)
        quantized = self.quantizer(z)
        if self.continuous:
            quantized = replace(quantized, loss=quantized.loss * z[0, ..., 0].numel())
        return self.rebuild(quantized.values), quantized

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size."""
        padded, _ = fit(pixels, self.compression, head=1)
        frames, found = self.forward(2 * padded - 1)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        return Reconstruction(
            (cropped + 1) / 2, found.loss, {name: each.mean() for name, each in found.stats.items()}
        )

    def encode_part(self, pixels: Float[Tensor, "b 3 f y x"], state: State) -> Tensor:
        """Codes, or means of latents, of the next frames in [0, 1]."""
        quantized = self.quantizer(self.latents(2 * pixels - 1, state))
        return quantized.values if self.continuous else quantized.ids

    def decode_part(self, codes: Tensor, state: State) -> Float[Tensor, "b 3 f y x"]:
        """The frames of the next grids of codes or latents."""
        latents = codes if self.continuous else self.quantizer.lookup(codes)
        return (self.rebuild(latents, state) + 1) / 2

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives."""
        return super().stream() if self.causal else Tokenizer.stream(self)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, position_biases: bool = False, scrambled_peg: bool = True
    ) -> OmniTokenizer:
        """The model of an official checkpoint; its sizes are read from it.

        Args:
            state: names and tensors; those of the discriminators and of LPIPS are left out.
            position_biases: for `imagenet_only`, which was trained without fused attention.
            scrambled_peg: off for weights that were trained with the order put right.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = {name: tensor for name, tensor in state.items() if not re.match(TRAINING_ALONE, name)}
        found = public_weights(state)
        for pattern, ours in NAMES:
            found = {re.sub(pattern, ours, name): tensor for name, tensor in found.items()}
        unused = UNUSED if position_biases else UNUSED + r"|space\.layers\.\d+\.attention\.bias\."
        rel = any(re.search(r"space\.layers\.\d+\.attention\.bias\.", name) for name in found)
        found = {name: tensor for name, tensor in found.items() if not re.search(unused, name)}
        quantizer, codes = _codes_of(found)
        dim, tube_numbers = told(found, "encoder.patches.rest.linear.weight").shape
        patch_numbers = told(found, "encoder.patches.first.linear.weight").shape[1]
        dim_head = len(told(found, "encoder.time.layers.0.attention.q_scale"))
        tables = [x for name, x in found.items() if name.endswith("attention.within.bias.table")]
        model = cls(
            OmniTokenizerConfig(
                dim=dim,
                patch=round((patch_numbers / 3) ** 0.5),
                tube=tube_numbers // patch_numbers,
                encoder_blocks=_blocks_of(found, "encoder"),
                decoder_blocks=_blocks_of(found, "decoder"),
                time_depth=len(numbered(found, r"encoder\.time\.layers\.(\d+)\.")),
                heads=len(told(found, "encoder.time.layers.0.attention.q.weight")) // dim_head,
                dim_head=dim_head,
                window=(round(len(tables[0]) ** 0.5) + 1) // 2 if tables else 8,
                places="rel" if rel else "rope",
                quantizer=quantizer,
                position_biases=position_biases,
                pixel_norm=True,
                scrambled_peg=scrambled_peg,
            )
        )
        load_strictly(model, {k: x for k, x in found.items() if not k.startswith("codebook.")} | codes)
        return model


def _along_space(config: OmniTokenizerConfig, blocks: str) -> Layers:
    def layer(block: str) -> Layer:
        if block == "w":
            return Layer(config.dim, FrameWindows(config.dim, config.heads, config.window))
        rope = config.places == "rope"
        attention = SpaceAttention(
            config.dim, config.heads, config.dim_head, not rope and config.position_biases, rope
        )
        return Layer(config.dim, attention, PlaceConvolution(config.dim))

    return Layers(config.dim, [layer(block) for block in blocks])


def _along_time(config: OmniTokenizerConfig) -> Layers:
    def layer() -> Layer:
        attention = TimeAttention(
            config.dim, config.heads, config.dim_head, config.position_biases, config.lookback
        )
        return Layer(config.dim, attention, PlaceConvolution(config.dim, scrambled=config.scrambled_peg))

    return Layers(config.dim, [layer() for _ in range(config.time_depth)])


def _blocks_of(found: Mapping[str, Tensor], side: str) -> str:
    prefix = f"{side}.space.layers"
    layers = numbered(found, re.escape(prefix) + r"\.(\d+)\.")
    return "".join("w" if f"{prefix}.{i}.attention.within.qkv.weight" in found else "t" for i in layers)


def _codes_of(found: Mapping[str, Tensor]) -> tuple[QuantizerConfig, dict[str, Tensor]]:
    """The quantizer of a checkpoint and its tensors; a checkpoint of latents has a codebook it never uses."""
    channels = told(found, "out.weight").shape[1]
    if len(told(found, "into.weight")) == 2 * channels:
        return replace(LATENTS, dim=channels), {}
    codes = told(found, "codebook.embeddings")
    return replace(CODES, codebook_size=len(codes), dim=channels), {
        "quantizer.codebook": codes,
        "quantizer.counts": found.get("codebook.N", codes.new_ones(len(codes))),
        "quantizer.sums": found.get("codebook.z_avg", codes),
        "quantizer.ready": torch.tensor(True),
        "quantizer.draws": torch.tensor(0),
    }


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
