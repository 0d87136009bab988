"""LARP: a clip as tokens that each look at all of it, in an order that a model can predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.sincos_positions import clip_positions, line_positions
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.transformer import Block
from smalti.quantizers.base import Quantized
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Official, Paper, replace, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.tiled import TiledTokenizer
from smalti.tokenizers.tiling import cut_tiles, join_tiles

CODEBOOK = VectorQuantizerConfig(8192, 16, learn="gradient", normalize=True, temperature=0.03)


@dataclass(frozen=True)
class LARPConfig:
    """Attributes:
    tokens: of a tile; as many queries are learned.
    frames, size: of a tile, in frames and pixels a side.
    patch: frames, rows and columns of a patch.
    dim, heads: of both transformers.
    encoder_depth, decoder_depth: their blocks.
    eps: of the blocks' norms, timm's default; 1e-5 in its older versions.
    quantizer: the codebook; its temperature is that of the draws in training.
    """

    tokens: int = 1024
    frames: int = 16
    size: int = 128
    patch: tuple[int, int, int] = (4, 8, 8)
    dim: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    eps: float = 1e-6
    quantizer: VectorQuantizerConfig = field(default_factory=lambda: CODEBOOK)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches of a tile in time, rows and columns."""
        frames, rows, columns = self.patch
        return self.frames // frames, self.size // rows, self.size // columns


class LARPOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
        clips: as they came back.
        quantized: the tokens; `quantized.values` [b k c] are what the prior reads, of length 1 and with a
            gradient for the encoder.
    """

    clips: Float[Tensor, "b 3 t s r"]
    quantized: Quantized


@system(
    "larp",
    room="tokenizers",
    paper=Paper(
        "LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior",
        2024,
        "https://arxiv.org/abs/2410.21264",
    ),
    official=Official("hywang66/LARP", "MIT"),
    presets={
        "LARP-L-Long": LARPConfig(),
        "LARP-L-512": LARPConfig(tokens=512),
        "LARP-L-256": LARPConfig(tokens=256),
    },
    tags=("video", "discrete", "1d"),
)
class LARP(TiledTokenizer):
    """Holistic video tokens whose codes are drawn in training (LARP: Wang et al., 2024, arXiv 2410.21264).

    ```
    tile [m 3 16 128 128] ─► patches + places [m 1024 d] ─┐
                              learned queries [k d] ──────┴─► 12 blocks ─► the last k ─► linear [m k 16]
                                                                                           │ length 1
    tile ◄─ linear ◄─ norm ◄─ last 1024 ◄─ 12 blocks ◄─┬─ linear + places ◄── codebook ◄───┘
                      places + one learned vector ─────┘               [8192 16]: drawn, or the nearest
    ```
    Official defaults: 1,024 tokens a tile of 16 frames of 128 × 128 pixels; 8,192 codes of 16 channels, drawn
    in training with odds of softmax(cosine / 0.03). Pixels stay in [0, 1]. Trained with L1, LPIPS and a patch
    discriminator, 0.1 of the codebook's loss and 0.06 of the prior's (`larp_prior`), which gives tokens their
    order.

    Differs from the official code: evaluation takes the nearest code unless `quantizer.train()` is called,
    and the codebook starts with codes of length 1. Longer and larger sources are cut into tiles.

    Raises:
        ConfigError: a tile that patches do not fill, heads that do not divide the channels, or a quantizer of
            more than one code a token.
    """

    def __init__(self, config: LARPConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: LARPConfig = replace(config or LARPConfig(), changes)
        config = self.config
        tile = (config.frames, config.size, config.size)
        if any(side % part for side, part in zip(tile, config.patch, strict=True)):
            raise ConfigError(f"patches {config.patch} do not fill a tile of {tile} frames, rows and columns")
        if config.tokens < 1 or config.dim % (4 * config.heads):
            raise ConfigError(f"larp needs tokens, and channels that are a multiple of 4 · heads: {config}")
        self.compression, self.length = tile, config.tokens
        dim, patch = config.dim, config.patch
        self.patches = nn.Conv3d(3, dim, patch, patch)
        self.queries = nn.Parameter(torch.randn(config.tokens, dim) * 0.02)
        self.patch_type = nn.Parameter(torch.randn(dim) * 0.02)
        self.encoder, self.decoder = (
            nn.Sequential(*(Block(dim, config.heads, qkv_bias=False, eps=config.eps) for _ in range(depth)))
            for depth in (config.encoder_depth, config.decoder_depth)
        )
        self.quantizer = config.quantizer.build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        self.enter = nn.Linear(dim, self.quantizer.dim)
        self.leave = nn.Linear(self.quantizer.dim, dim)
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.to_pixels = nn.Linear(dim, 3 * patch[0] * patch[1] * patch[2])
        self.register_buffer("places", clip_positions(*config.grid, dim), persistent=False)
        self.register_buffer("ranks", line_positions(torch.arange(config.tokens), dim), persistent=False)
        self._start()

    places: Tensor
    ranks: Tensor

    def _start(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias) if layer.bias is not None else None
        nn.init.xavier_uniform_(self.patches.weight.view(len(self.patches.weight), -1))
        nn.init.zeros_(self.to_pixels.weight)

    def read(self, clips: Float[Tensor, "b 3 t s r"]) -> Float[Tensor, "b k d"]:
        """What the queries found in tiles in [0, 1]."""
        patches = rearrange(self.patches(clips.to(self.queries.dtype)), "b d t h w -> b (t h w) d")
        patches = patches + self.places.to(patches.dtype)
        both = torch.cat([patches, self.queries.expand(len(clips), -1, -1)], 1)
        return self.encoder(both)[:, -self.length :]

    def quantize(self, found: Float[Tensor, "b k d"]) -> Quantized:
        """Codes of what the queries found: drawn in training, the nearest in evaluation."""
        return self.quantizer(self.enter(found))

    def write(self, latents: Float[Tensor, "b k c"]) -> Float[Tensor, "b 3 t s r"]:
        """Tiles of codes' vectors, not clamped."""
        tokens = self.leave(latents.to(self.leave.weight.dtype)) + self.ranks.to(self.queries.dtype)
        asked = (self.places.to(tokens.dtype) + self.patch_type).expand(len(tokens), -1, -1)
        drawn = self.decoder(torch.cat([tokens, asked], 1))[:, -len(self.places) :]
        (t, h, w), (p, q, r) = self.config.grid, self.config.patch
        pattern = "b (t h w) (p q r c) -> b c (t p) (h q) (w r)"
        return rearrange(self.to_pixels(self.norm(drawn)), pattern, t=t, h=h, w=w, p=p, q=q, r=r)

    def forward(self, clips: Float[Tensor, "b 3 t s r"]) -> LARPOutput:
        """Tiles there and back, with gradients."""
        quantized = self.quantize(self.read(clips))
        return LARPOutput(self.write(quantized.values), quantized)

    def round_trip(self, pixels: Float[Tensor, "b 3 f y x"]) -> tuple[Float[Tensor, "b 3 f y x"], Quantized]:
        """Pixels of any size there and back, with gradients, and the tokens of their tiles [m k c]."""
        tiles, source = cut_tiles(pixels, self.compression)
        passed = self(tiles)
        return join_tiles(passed.clips, source), passed.quantized

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, of any size, tile by tile; the prior is its objective's."""
        rebuilt, quantized = self.round_trip(pixels)
        return Reconstruction(rebuilt, quantized.loss, {k: v.mean() for k, v in quantized.stats.items()})

    def codebook(self) -> Float[Tensor, "k c"]:
        """Every code as the prior sees it, of length 1 and without a gradient."""
        with torch.no_grad():
            ids = torch.arange(self.codebook_sizes[0], device=self.queries.device)
            return self.quantizer.lookup(ids[:, None])

    def encode_tiles(self, tiles: Float[Tensor, "m 3 t s r"]) -> Int[Tensor, "m k q"]:
        """The nearest code of every query's answer."""
        return self.quantize(self.read(tiles)).ids

    def decode_tiles(self, codes: Int[Tensor, "m k q"]) -> Float[Tensor, "m 3 t s r"]:
        """Tiles of all their codes."""
        return self.write(self.quantizer.lookup(codes))

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        frames: int = 16,
        eps: float = LARPConfig.eps,
    ) -> LARP:
        """The tokenizer of an official checkpoint; its sizes are read from it, its prior is left aside.

        Args:
            state: names and tensors.
            heads: which a checkpoint does not tell; heads of 64 channels when not given.
            frames: of a tile, which a checkpoint does not tell.
            eps: of the blocks' norms, in the timm it was trained with.

        Raises:
            ConfigError: names or shapes that do not fit, or places that are not the fixed ones.
        """
        dim, _, period, side, _ = told(state, "x_embedder.proj.weight").shape
        tokens = len(told(state, "encoder_latent_query_embed"))
        codes = told(state, "bottleneck.regularizer.embedding.weight")
        across = isqrt(told(state, "encoder_patch_pe").shape[1] * period // frames)
        encoder, decoder = (len(numbered(state, rf"{part}coder\.blocks\.(\d+)\.")) for part in ("en", "de"))
        model = cls(
            tokens=tokens,
            frames=frames,
            size=across * side,
            patch=(period, side, side),
            dim=dim,
            heads=heads or max(dim // 64, 1),
            encoder_depth=encoder,
            decoder_depth=decoder,
            eps=eps,
            quantizer=replace(CODEBOOK, {"codebook_size": len(codes), "dim": codes.shape[1]}),
        )
        fixed = {
            "encoder_patch_pe": model.places,
            "decoder_patch_query_embed": model.places,
            "decoder_latent_pe": model.ranks,
        }
        for name, ours in fixed.items():
            theirs = state.get(name)
            if theirs is None or theirs[0].shape != ours.shape or (theirs[0] - ours).abs().max() > 1e-4:
                raise ConfigError(f"{name} is not the table of sines and cosines that this larp has fixed")
        learned = {k: t for k, t in state.items() if k not in fixed and not k.startswith("prior_model.")}
        kept = renamed(learned, RULES)
        if (kind := kept.get("patch_type")) is not None:
            kept["patch_type"] = kind.flatten()
        own = {f"quantizer.{name}": t for name, t in model.quantizer.named_buffers()}
        load_strictly(model, own | kept)
        return model


RULES = (
    (r"^x_embedder\.proj", "patches"),
    (r"^(en|de)coder\.blocks", r"\1coder"),
    ("^encoder_latent_query_embed", "queries"),
    ("^decoder_patch_query_token_type_embed", "patch_type"),
    (r"^bottleneck\.in_linear", "enter"),
    (r"^bottleneck\.out_linear", "leave"),
    (r"^bottleneck\.regularizer\.embedding\.weight", "quantizer.codebook"),
    (r"^final_layer\.norm_final", "norm"),
    (r"^final_layer\.linear", "to_pixels"),
)
