"""What TiTok and One-D-Piece share: a picture as a sequence of codes that stand for no place.

```
picture [b 3 s s] ─► LatentQueryEncoder ─► z [b k d] ─► quantizer ─► ids [b k] or values [b k d]
                                                                         │
pixels ◄─ MaskGIT's VQGAN decoder ◄─ mixture of its codes ◄─ logits ◄─ MaskedPlacesDecoder    (two stages)
pixels ◄─ convolution 3×3 ◄─ patches [3·p·p] ◄───────────────────────────────┘                (one stage)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.clip_blocks import CLIP_BLOCKS, side_of_square
from smalti.nn.latent_queries import BASE, LARGE, SMALL, LatentQueryEncoder, MaskedPlacesDecoder, TowerConfig
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.vqgan import MaskGITDecoder
from smalti.quantizers.base import Quantized, QuantizerConfig
from smalti.quantizers.variational import VariationalConfig
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.tiled import TiledTokenizer
from smalti.tokenizers.tiling import cut_tiles, join_tiles

TWO_STAGE = VectorQuantizerConfig(4096, 12, learn="gradient", normalize=True)
ONE_STAGE = VectorQuantizerConfig(8192, 64, learn="gradient")
HEADS = {tower.width: tower.heads for tower in (SMALL, BASE, LARGE)}
OFFICIAL_NAMES = (
    (r"^latent_tokens$", "encoder.latents"),
    (r"\bpositional_embedding$", "positions"),
    (r"\blatent_token_positional_embedding$", "latent_positions"),
    (r"^encoder\.conv_out\.", "encoder.out."),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^decoder\.(ffn|conv_out)\.", r"\1."),
    (r"^ffn\.", "head."),
    (r"^conv_out\.", "smooth."),
    (r"^pixel_quantize\.embedding\.weight$", "proxy_codes"),
    (r"^pixel_decoder\.", "proxy_decoder."),
    (r"^quantize\.embedding\.weight$", "quantizer.codebook"),
    *CLIP_BLOCKS,
)
Made = TypeVar("Made", bound="OneDimensionalTokenizer")


@dataclass(frozen=True)
class ProxyConfig:
    """The VQGAN of MaskGIT, whose codes the two-stage decoder predicts.

    Attributes:
        codes, latent: of its codebook, and channels of each.
        channels, multiples, blocks: of its networks, see `nn.vqgan`.
    """

    codes: int = 1024
    latent: int = 256
    channels: int = 128
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2


@dataclass(frozen=True)
class OneDimensionalConfig:
    """Attributes:
    length: tokens of a picture.
    encoder, decoder: sizes of the transformers.
    quantizer: of the tokens; a `VariationalConfig` leaves them continuous.
    proxy: whose codes the decoder predicts; none predicts pixels.
    size, patch: pixels a side of a picture and of a patch.
    scrambled: mix the latents of all tokens as the first official weights need it.
    """

    length: int = 128
    encoder: TowerConfig = SMALL
    decoder: TowerConfig = SMALL
    quantizer: QuantizerConfig = TWO_STAGE
    proxy: ProxyConfig | None = ProxyConfig()
    size: int = 256
    patch: int = 16
    scrambled: bool = False

    def __post_init__(self) -> None:
        if self.size % self.patch or min(self.size, self.patch, self.length) < 1:
            raise ConfigError(f"patches of {self.patch} pixels do not fill pictures of {self.size}")


class Painting(NamedTuple):
    """What a forward pass gives.

    Attributes:
        pixels: not clamped.
        logits: of the proxy's codes [b g g codes]; none where pixels are predicted.
        quantized: tokens, their values and the quantizer's loss.
    """

    pixels: Float[Tensor, "b 3 s s"]
    logits: Float[Tensor, "b g g v"] | None
    quantized: Quantized


class OneDimensionalTokenizer(TiledTokenizer):
    """A picture of `size` × `size` pixels ⇄ `length` tokens; larger ones are tiled, frames stand alone."""

    config_class: type[OneDimensionalConfig] = OneDimensionalConfig

    def __init__(self, config: OneDimensionalConfig) -> None:
        super().__init__()
        self.config = config
        self.compression, self.length = (1, config.size, config.size), config.length
        self.quantizer = config.quantizer.build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        self.grid = config.size // config.patch
        self.encoder = LatentQueryEncoder(
            config.encoder, self.grid, config.patch, config.length, self.quantizer.channels, config.scrambled
        )
        self.decoder = MaskedPlacesDecoder(config.decoder, self.grid, config.length, self.quantizer.dim)
        width, proxy = config.decoder.width, config.proxy
        if proxy is None:
            self.head = nn.Sequential(nn.Linear(width, 3 * config.patch**2))
            self.smooth = nn.Conv2d(3, 3, 3, padding=1)
        else:
            self.head = nn.Sequential(
                nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, proxy.codes)
            )
        self.apply(_initialise)
        if isinstance(self.quantizer, VectorQuantizer):
            nn.init.uniform_(self.quantizer.codebook, -1 / self.codebook_sizes[0], 1 / self.codebook_sizes[0])
        if proxy is not None:
            self.proxy_codes = nn.Parameter(torch.empty(proxy.codes, proxy.latent))
            nn.init.uniform_(self.proxy_codes, -1 / proxy.codes, 1 / proxy.codes)
            self.proxy_decoder = MaskGITDecoder(proxy.latent, proxy.channels, proxy.multiples, proxy.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks' weights; quantizers stay in float32."""
        return self.encoder.patch_embed.weight.dtype

    def quantize(self, pictures: Float[Tensor, "b 3 s s"]) -> Quantized:
        """Tokens of pictures in [0, 1], with gradients: values [b k d], ids [b k 1]."""
        return self.quantizer(self.encoder(pictures.to(self.dtype)))

    def predict(
        self, values: Float[Tensor, "b k d"], kept: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b g g v"]:
        """What the decoder says of every place: logits of the proxy's codes, or the pixels of a patch.

        Args:
            values: any first tokens.
            kept: how many of them every sample reads; all when not given.
        """
        said = self.head(self.decoder(values.to(self.dtype), kept))
        return said.unflatten(1, (self.grid, self.grid))

    def render(self, said: Float[Tensor, "b g g v"]) -> Float[Tensor, "b 3 s s"]:
        """Pixels of what the decoder said."""
        if self.config.proxy is None:
            p = self.config.patch
            return self.smooth(rearrange(said, "b y x (p q c) -> b c (y p) (x q)", p=p, q=p))
        mixture = said.softmax(-1) @ self.proxy_codes
        return self.proxy_decoder(rearrange(mixture, "b y x c -> b c y x"))

    def forward(self, pictures: Float[Tensor, "b 3 s s"]) -> Painting:
        """Tokens and back, with gradients, for training."""
        return self.paint(self.quantize(pictures))

    def paint(self, found: Quantized, kept: Int[Tensor, "b"] | None = None) -> Painting:
        """Pixels of tokens, or of the first `kept` of every sample; what none keeps costs nothing."""
        values = found.values
        if kept is not None:
            values = values[:, : int(kept.max())]
            kept = None if bool((kept == values.shape[1]).all()) else kept
        said = self.predict(values, kept)
        return Painting(self.render(said), None if self.config.proxy is None else said, found)

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, of any size, tile by tile; for the second stage and for one stage."""
        tiles, source = cut_tiles(pixels, self.compression)
        out = self(tiles.squeeze(2))
        parts = {name: each.mean() for name, each in out.quantized.stats.items()}
        return Reconstruction(join_tiles(out.pixels[:, :, None], source), out.quantized.loss, parts)

    def encode_tiles(self, tiles: Float[Tensor, "m 3 t s r"]) -> Tensor:
        """Ids [m k 1] of pictures in [0, 1], or values [m k d]."""
        found = self.quantize(tiles.squeeze(2))
        return found.ids if self.codebook_sizes else found.values

    def decode_tiles(self, codes: Tensor) -> Float[Tensor, "m 3 t s r"]:
        """Pictures of tokens.

        Raises:
            ConfigError: the proxy's decoder does not give pictures of this size.
        """
        values = codes if codes.is_floating_point() else self.quantizer.lookup(codes)
        pixels = self.render(self.predict(values))
        if pixels.shape[-1] != self.config.size:
            raise ConfigError(
                f"the proxy makes {pixels.shape[-1] // self.grid} pixels of a place, "
                f"but patches have {self.config.patch}"
            )
        return pixels[:, :, None]

    @classmethod
    def from_official(
        cls: type[Made],
        state: Mapping[str, Tensor],
        *,
        heads: tuple[int, int] | None = None,
    ) -> Made:
        """The tokenizer of an official checkpoint; its sizes are read from it.

        Two-stage checkpoints are scrambled and have l2-normalised codes, one-stage checkpoints are and have
        not. Checkpoints of the first stage lack the proxy's decoder and cannot make pixels.

        Args:
            state: names and tensors.
            heads: of encoder and decoder, which a checkpoint does not tell; the official ones when not given.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        config = _told_config(state, heads)
        model = cls(cls.config_class(**vars(config)))
        ours = renamed(state, OFFICIAL_NAMES)
        for name in [name for name in ours if name.startswith(("encoder.out.", "head."))]:
            ours[name] = ours[name].flatten(1) if name.endswith("weight") else ours[name]
        own = {f"quantizer.{name}": tensor for name, tensor in model.quantizer.named_buffers()}
        load_strictly(model, own | ours)
        return model


def _told_config(state: Mapping[str, Tensor], heads: tuple[int, int] | None) -> OneDimensionalConfig:
    towers = []
    for number, side in enumerate(("encoder", "decoder")):
        width = told(state, f"{side}.ln_pre.weight").shape[0]
        depth = len(numbered(state, rf"{side}\.transformer\.(\d+)\."))
        towers.append(
            TowerConfig(width, depth, heads[number] if heads else HEADS.get(width, max(width // 64, 1)))
        )
    two_stage = "decoder.ffn.2.weight" in state
    codebook = state.get("quantize.embedding.weight")
    if codebook is None:
        channels = told(state, "decoder.decoder_embed.weight").shape[1]
        quantizer = variational(channels, len(told(state, "latent_tokens")))
    else:
        quantizer = VectorQuantizerConfig(*codebook.shape, learn="gradient", normalize=two_stage)
    patch = told(state, "encoder.patch_embed.weight").shape[-1]
    return OneDimensionalConfig(
        length=len(told(state, "latent_tokens")),
        encoder=towers[0],
        decoder=towers[1],
        quantizer=quantizer,
        proxy=_told_proxy(state) if two_stage else None,
        size=side_of_square(len(told(state, "encoder.positional_embedding")) - 1) * patch,
        patch=patch,
        scrambled=two_stage,
    )


def _told_proxy(state: Mapping[str, Tensor]) -> ProxyConfig:
    if "pixel_quantize.embedding.weight" not in state:
        raise ConfigError(
            "this checkpoint of the first stage predicts codes and has no decoder of pixels: "
            "take that of the second stage"
        )
    codes, latent = state["pixel_quantize.embedding.weight"].shape
    levels = numbered(state, r"pixel_decoder\.up\.(\d+)\.")
    widths = [len(told(state, f"pixel_decoder.up.{n}.block.0.conv1.weight")) for n in levels]
    return ProxyConfig(
        codes=codes,
        latent=latent,
        channels=widths[0],
        multiples=tuple(width // widths[0] for width in widths),
        blocks=len(numbered(state, r"pixel_decoder\.mid\.(\d+)\.")),
    )


def variational(channels: int, length: int) -> VariationalConfig:
    """Continuous tokens; the official divergence is summed over all tokens of a picture."""
    return VariationalConfig(channels, kl=1e-6 * length)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
