"""C-ViViT, the tokenizer of Phenaki: a causal video transformer with discrete codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.causal_conv import State
from smalti.nn.cvivit_names import public_weights
from smalti.nn.factorised_video import (
    Layer,
    Layers,
    PlaceConvolution,
    SpaceAttention,
    TimeAttention,
    VideoDecoder,
    VideoEncoder,
)
from smalti.nn.frame_and_tubes import VideoPatches, VideoPixels
from smalti.nn.place_bias import ContinuousBias
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.quantizers.base import Quantized, QuantizerConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Paper, system
from smalti.tokenizers.base import Reconstruction, Stream, Tokenizer
from smalti.tokenizers.causal import CausalTokenizer
from smalti.tokenizers.extent import fit

PAPER_CODES = VectorQuantizerConfig(8192, 32, learn="gradient", normalize=True)


@dataclass(frozen=True)
class PhenakiConfig:
    """Attributes:
    dim: channels of the transformers.
    patch: side of a patch, in pixels.
    tube: frames of a token, but for the first.
    space_depth, time_depth: layers along space and along time, of the encoder and again of the decoder.
    heads, dim_head: of all attention.
    quantizer: of the codes; without projections where its channels are `dim`.
    lookback: grids that attention along time sees, its own with them; all when not given, and then the
        memory of a stream grows with its length.
    pixel_norm: the public implementation's norm over the pixels of a patch, which takes off its brightness.
    scrambled_peg: the public implementation's convolution along time on a grid in the wrong order, which
        looks into the future: needed for weights that were trained so.
    """

    dim: int = 512
    patch: int = 8
    tube: int = 2
    space_depth: int = 4
    time_depth: int = 4
    heads: int = 8
    dim_head: int = 64
    quantizer: QuantizerConfig = PAPER_CODES
    lookback: int | None = 32
    pixel_norm: bool = False
    scrambled_peg: bool = False

    def __post_init__(self) -> None:
        smallest = min(self.dim, self.patch, self.tube, self.heads, self.dim_head, self.lookback or 1)
        if smallest < 1 or min(self.space_depth, self.time_depth) < 0:
            raise ConfigError(f"sizes must be at least 1 and depths at least 0: {self}")


@system(
    "phenaki",
    room="tokenizers",
    paper=Paper(
        "Phenaki: Variable Length Video Generation From Open Domain Textual Description",
        2022,
        "https://arxiv.org/abs/2210.02399",
    ),
    presets={
        "c-vivit": PhenakiConfig(),
        "phenaki-pytorch": PhenakiConfig(
            patch=32,
            quantizer=LFQConfig(16, group_bits=16, commitment=0.0),
            pixel_norm=True,
        ),
    },
    tags=("video", "image", "discrete", "causal"),
    status="reconstruction",
)
class Phenaki(CausalTokenizer):
    """C-ViViT (Villegas et al., 2022): frame and tube tokens, space then causal time, one code a token.

    ```
    pixels [b 3 1+k·tube h w] ─► patches of frame 0, tubes ─► space layers ─► causal time layers ─► into
                                                                                                     │
    pixels ◄── patches, tubes ◄── space layers ◄── causal time layers ◄── out ◄── codes [b 1+k h' w'] ┘
    ```
    Attention is on unit vectors with logits of scale 8; along space it adds one continuous position bias for
    all layers, along time ALiBi. 11 frames of 128×128 are 6·16·16 = 1,536 tokens. Official training: Adam
    (0.9, 0.99), 1e-4 falling as a cosine, 1 M steps; loss = codes + 0.1 adversarial + 0.1 image perceptual +
    1.0 video perceptual + 1.0 L2.

    There is no official code. The public re-implementation (lucidrains/phenaki-pytorch, MIT) is read by
    `from_official`. Deviations: time looks back `lookback` grids, so that a stream's memory is bounded (no
    difference up to 63 frames); the options of the re-implementation named in `PhenakiConfig` are off.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: a quantizer without codes; `stream` with a scrambled PEG, which is not causal.
    """

    def __init__(self, config: PhenakiConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or PhenakiConfig()
        self.compression = (config.tube, config.patch, config.patch)
        self.causal = not config.scrambled_peg
        self.position_bias = ContinuousBias(config.dim, config.heads)
        patches = VideoPatches(config.dim, config.patch, config.tube, config.pixel_norm)
        pixels = VideoPixels(config.dim, config.patch, config.tube)
        self.encoder = VideoEncoder(patches, _along_space(config), _along_time(config))
        self.decoder = VideoDecoder(_along_time(config), _along_space(config), pixels)
        self.quantizer = config.quantizer.build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        if len(self.codebook_sizes) == 0:
            raise ConfigError("Phenaki's tokens are codes: choose a quantizer that has some, as vq or lfq")
        projected = self.quantizer.dim != config.dim
        self.into = nn.Linear(config.dim, self.quantizer.dim) if projected else nn.Identity()
        self.out = nn.Linear(self.quantizer.dim, config.dim) if projected else nn.Identity()

    def features(
        self, pixels: Float[Tensor, "b 3 f y x"], state: State | None = None
    ) -> Float[Tensor, "b t h w d"]:
        """What the encoder gives for the next frames, before the codes."""
        size = [length // self.config.patch for length in pixels.shape[-2:]]
        return self.encoder(pixels, state, self.position_bias(size))

    def rebuild(
        self, latents: Float[Tensor, "b t h w c"], state: State | None = None
    ) -> Float[Tensor, "b 3 f y x"]:
        """Frames of the latents of codes."""
        x = self.out(latents.to(self.decoder.pixels.first.weight.dtype))
        return self.decoder(x, state, self.position_bias(x.shape[2:4]))

    def forward(self, pixels: Float[Tensor, "b 3 f y x"]) -> tuple[Float[Tensor, "b 3 f y x"], Quantized]:
        """For training: the reconstruction, and the codes with their loss.

        Args:
            pixels: 1 + k·tube frames whose sides are multiples of the patch.
        """
        quantized = self.quantizer(self.into(self.features(pixels)))
        return self.rebuild(quantized.values), quantized

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size."""
        padded, _ = fit(pixels, self.compression, head=1)
        frames, found = self.forward(padded)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        return Reconstruction(cropped, found.loss, {name: each.mean() for name, each in found.stats.items()})

    def encode_part(self, pixels: Float[Tensor, "b 3 f y x"], state: State) -> Int[Tensor, "b t h w q"]:
        """Codes of the next frames."""
        return self.quantizer(self.into(self.features(pixels, state))).ids

    def decode_part(self, codes: Int[Tensor, "b t h w q"], state: State) -> Float[Tensor, "b 3 f y x"]:
        """The frames of the next grids of codes."""
        return self.rebuild(self.quantizer.lookup(codes), state)

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives."""
        return super().stream() if self.causal else Tokenizer.stream(self)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, scrambled_peg: bool = True) -> Phenaki:
        """The model of a checkpoint of phenaki-pytorch; its sizes are read from it.

        Args:
            state: names and tensors; those of the discriminator and of VGG are left out.
            scrambled_peg: off for weights that were trained with the order put right.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = {name: tensor for name, tensor in state.items() if not re.match(r"discr\.|vgg\.", name)}
        dim, tube_numbers = told(state, "to_patch_emb.2.weight").shape
        patch_numbers = told(state, "to_patch_emb_first_frame.2.weight").shape[1]
        dim_head = len(told(state, "enc_temporal_transformer.layers.0.1.q_scale"))
        quantizer, codes = _codes_of(state)
        config = PhenakiConfig(
            dim=dim,
            patch=round((patch_numbers / 3) ** 0.5),
            tube=tube_numbers // patch_numbers,
            space_depth=len(numbered(state, r"enc_spatial_transformer\.layers\.(\d+)\.")),
            time_depth=len(numbered(state, r"enc_temporal_transformer\.layers\.(\d+)\.")),
            heads=len(told(state, "spatial_rel_pos_bias.net.2.weight")),
            dim_head=dim_head,
            quantizer=quantizer,
            pixel_norm=True,
            scrambled_peg=scrambled_peg,
        )
        model = cls(config)
        found = public_weights({name: x for name, x in state.items() if not name.startswith("vq.")})
        named = {re.sub(r"^spatial_rel_pos_bias", "position_bias", name): x for name, x in found.items()}
        load_strictly(model, named | codes)
        return model


def _along_space(config: PhenakiConfig) -> Layers:
    return Layers(
        config.dim,
        [
            Layer(config.dim, SpaceAttention(config.dim, config.heads, config.dim_head))
            for _ in range(config.space_depth)
        ],
    )


def _along_time(config: PhenakiConfig) -> Layers:
    return Layers(
        config.dim,
        [
            Layer(
                config.dim,
                TimeAttention(config.dim, config.heads, config.dim_head, lookback=config.lookback),
                PlaceConvolution(config.dim, scrambled=config.scrambled_peg),
            )
            for _ in range(config.time_depth)
        ],
    )


def _codes_of(state: Mapping[str, Tensor]) -> tuple[QuantizerConfig, dict[str, Tensor]]:
    """The quantizer of a checkpoint, and its tensors and those of the projections under our names.

    The first of its bits is the highest of a code, of ours the lowest: the channels change their order.
    """
    if "vq.project_in.weight" in state:
        bits = len(state["vq.project_in.weight"])
        found = {
            "into.weight": state["vq.project_in.weight"].flip(0),
            "into.bias": told(state, "vq.project_in.bias").flip(0),
            "out.weight": told(state, "vq.project_out.weight").flip(1),
            "out.bias": told(state, "vq.project_out.bias"),
        }
        return LFQConfig(bits, group_bits=min(bits, 18), commitment=0.0), found
    codes = told(state, "vq._codebook.embed")[0]
    size, dim = codes.shape
    config = VectorQuantizerConfig(size, dim, normalize=True, decay=0.8, commitment=1.0)
    counts, sums = state.get("vq._codebook.cluster_size"), state.get("vq._codebook.embed_avg")
    return config, {
        "quantizer.codebook": codes,
        "quantizer.counts": codes.new_ones(len(codes)) if counts is None else counts[0],
        "quantizer.sums": codes if sums is None else sums[0],
        "quantizer.ready": torch.tensor(True),
        "quantizer.draws": torch.tensor(0),
    }
