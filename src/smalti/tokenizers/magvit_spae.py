"""SPAE: pictures as a pyramid of words of a language model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.magvit_vq_networks import MagvitVQDecoder, MagvitVQEncoder, MagvitVQSizes
from smalti.quantizers.base import Quantized
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig
from smalti.registry import Paper, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.tiled import TiledTokenizer
from smalti.tokenizers.tiling import cut_tiles, join_tiles


@dataclass(frozen=True)
class SPAEConfig:
    """Attributes:
    sizes: of both networks, which take single frames.
    pyramid: side of every layer of words, from one word to the whole grid.
    words: of the language model.
    dim: channels of their embeddings.
    commitment: weight of pulling latents to words.
    """

    sizes: MagvitVQSizes = field(default_factory=lambda: MagvitVQSizes(128, time_down=(False,) * 3))
    pyramid: tuple[int, ...] = (1, 2, 4, 8, 16, 16)
    words: int = 65536
    dim: int = 256
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if any(self.sizes.time_down):
            raise ConfigError("SPAE takes single frames: time_down must hold no True")
        if not self.pyramid or any(side < 1 or self.pyramid[-1] % side for side in self.pyramid):
            raise ConfigError(f"every layer of {self.pyramid} must divide the last")


@system(
    "spae",
    room="tokenizers",
    paper=Paper(
        "SPAE: Semantic Pyramid AutoEncoder for Multimodal Generation with Frozen LLMs",
        2023,
        "https://arxiv.org/abs/2306.17842",
    ),
    presets={"spae-6": SPAEConfig(), "spae-5": SPAEConfig(pyramid=(1, 2, 4, 8, 16))},
    tags=("image", "discrete", "ordered", "words"),
    status="reconstruction",
)
class SPAE(TiledTokenizer):
    """Pictures as 597 words of a frozen language model, coarse to fine (SPAE: Yu et al., 2023, 2306.17842).

    ```
    tile [3 1 128 128] ─► MagvitVQEncoder ─► z [d 16 16]
    layer l, at places step·i + step/2: z + Σ of what earlier words left ─► nearest word ─► 1 + 4 + … ids
    mean of the words at a place ─► MagvitVQDecoder ─► tile
    ```
    Any first words decode: a place without one of its own takes the finest word whose block it lies in. The
    table of words is never learned; it is random until `set_words`. `semantic_loss` pulls coarse layers to
    words that suit the picture. The authors published no code: sizes of the networks, and what stands at
    places without words, are choices made here.

    Raises:
        ConfigError: a pyramid that does not fit its last layer, or a table of another size.
    """

    ordered = True

    def __init__(self, config: SPAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SPAEConfig()
        side = config.pyramid[-1] * config.sizes.compression[1]
        self.compression = (1, side, side)
        self.length = sum(side**2 for side in config.pyramid)
        self.encoder = MagvitVQEncoder(config.sizes, config.dim)
        self.decoder = MagvitVQDecoder(config.sizes, config.dim)
        self.quantizer = VectorQuantizer(
            VectorQuantizerConfig(config.words, config.dim, learn="gradient", commitment=config.commitment)
        ).requires_grad_(False)
        self.codebook_sizes = self.quantizer.codebook_sizes

    @torch.no_grad()
    def set_words(self, table: Float[Tensor, "k d"]) -> None:
        """Take over the embeddings of a language model, projected to `dim` channels.

        Raises:
            ConfigError: a table of another size.
        """
        if table.shape != self.quantizer.codebook.shape:
            raise ConfigError(
                f"the table is {tuple(table.shape)}, but words are {tuple(self.quantizer.codebook.shape)}"
            )
        self.quantizer.codebook.copy_(table)

    def places(self, layer: int) -> Int[Tensor, "n"]:
        """Where a layer's words stand in the flattened grid."""
        whole, side = self.config.pyramid[-1], self.config.pyramid[layer]
        step = whole // side
        axis = torch.arange(side) * step + step // 2
        return (axis[:, None] * whole + axis).flatten()

    def latents(self, tiles: Float[Tensor, "m 3 1 s s"]) -> Float[Tensor, "m n d"]:
        """Of every place."""
        return self.encoder(tiles).flatten(2).mT

    def quantize(self, z: Float[Tensor, "m n d"]) -> list[tuple[Float[Tensor, "m p d"], Quantized]]:
        """What every layer was asked to say, and its words."""
        left, found = z, []
        for layer in range(len(self.config.pyramid)):
            places = self.places(layer).to(z.device)
            asked = left[:, places]
            words = self.quantizer(asked)
            found.append((asked, words))
            rest = torch.zeros_like(z, dtype=torch.float32)
            rest[:, places] = z[:, places].float() - words.values.detach()
            left = left + rest.to(z.dtype)
        return found

    def mean_words(self, words: Float[Tensor, "m k d"]) -> Float[Tensor, "m n d"]:
        """The grid that the first k words describe."""
        whole = self.config.pyramid[-1]
        total = words.new_zeros(len(words), whole**2, words.shape[-1])
        count, nearest = words.new_zeros(whole**2, 1), words.new_zeros(total.shape)
        first = 0
        for layer, side in enumerate(self.config.pyramid):
            some = words[:, first : first + side**2]
            first += side**2
            places = self.places(layer).to(words.device)[: some.shape[1]]
            total = total.index_add(1, places, some)
            count = count.index_add(0, places, count.new_ones(len(places), 1))
            block = torch.arange(side, device=words.device).repeat_interleave(whole // side)
            word = (block[:, None] * side + block).flatten()
            known = word < some.shape[1]
            nearest = torch.where(known[:, None], some[:, word * known], nearest) if len(places) else nearest
        return torch.where(count > 0, total / count.clamp(min=1), nearest)

    def forward(
        self, tiles: Float[Tensor, "m 3 1 s s"], layers: int | None = None
    ) -> tuple[Float[Tensor, "m 3 1 s s"], Tensor]:
        """Reconstruction from the first layers, and the mean of their losses, for training."""
        found = [words for _, words in self.quantize(self.latents(tiles))][:layers]
        grid = self.mean_words(torch.cat([words.values for words in found], 1))
        return self._pixels(grid.to(tiles.dtype)), torch.stack([words.loss for words in found]).mean()

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, of any size, tile by tile; words are not asked to suit the picture."""
        tiles, source = cut_tiles(pixels, self.compression)
        rebuilt, loss = self.forward(tiles)
        return Reconstruction(join_tiles(rebuilt, source), loss)

    def semantic_loss(
        self, asked: Float[Tensor, "m p d"], suitable: Bool[Tensor, "m k"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of softmax(-distance²) over all words against those that suit the picture.

        Args:
            asked: what a coarse layer was asked to say, from `quantize`.
            suitable: words that a model of pictures and text finds near this picture.
        """
        words = self.quantizer.codebook
        scores = 2 * asked.float() @ words.mT - words.square().sum(1)
        share = F.log_softmax(scores, -1)
        wanted = suitable[:, None].float()
        return -((share * wanted).sum(-1) / wanted.sum(-1).clamp(min=1)).mean()

    def encode_tiles(self, tiles: Float[Tensor, "m 3 t s r"]) -> Int[Tensor, "m k 1"]:
        """Ids of words, layer by layer."""
        found = self.quantize(self.latents(tiles.to(self.encoder.enter.weight.dtype)))
        return torch.cat([words.ids for _, words in found], 1)

    def decode_tiles(self, codes: Int[Tensor, "m k 1"]) -> Float[Tensor, "m 3 t s r"]:
        """Tiles of the first k words."""
        grid = self.mean_words(self.quantizer.lookup(codes))
        return self._pixels(grid.to(self.decoder.enter.weight.dtype))

    def _pixels(self, grid: Float[Tensor, "m n d"]) -> Float[Tensor, "m 3 1 s s"]:
        side = self.config.pyramid[-1]
        return self.decoder(grid.mT.unflatten(2, (1, side, side)))
