"""One-D-Piece: TiTok whose tokens are ordered, so that any first of them are a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.latent_queries import BASE, LARGE
from smalti.registry import Official, Paper, system
from smalti.tokenizers.one_dimensional import OneDimensionalConfig, OneDimensionalTokenizer, Painting
from smalti.tokenizers.tiled import AT_ONCE


@dataclass(frozen=True)
class OneDPieceConfig(OneDimensionalConfig):
    """As of `OneDimensionalConfig`, and:

    Attributes:
        prefix: how training draws the count of tokens that are kept: any, or a power of two.
        per_sample: every sample of a batch draws for itself, instead of one draw for all.
    """

    length: int = 256
    prefix: Literal["uniform", "powers"] = "uniform"
    per_sample: bool = False


@system(
    "one-d-piece",
    room="tokenizers",
    paper=Paper(
        "One-D-Piece: Image Tokenizer Meets Quality-Controllable Compression",
        2025,
        "https://arxiv.org/abs/2501.10064",
    ),
    official=Official("turingmotors/One-D-Piece", "Apache-2.0"),
    presets={
        "One-D-Piece-S-256": OneDPieceConfig(),
        "One-D-Piece-B-256": OneDPieceConfig(encoder=BASE, decoder=BASE),
        "One-D-Piece-L-256": OneDPieceConfig(encoder=LARGE, decoder=LARGE),
    },
    tags=("image", "discrete", "sequence", "ordered", "progressive"),
)
class OneDPiece(OneDimensionalTokenizer):
    """Tokens of a picture in order of what they tell (One-D-Piece: Miwa et al., 2025, arXiv 2501.10064).

    ```
    picture ─► TiTok's encoder ─► 256 codes ─► the first k ─► TiTok's decoder ─► picture      k = 1 … 256
                                                  ▲ in training k is drawn for every batch
    ```
    Dropped tokens are not in the decoder's sequence at all, and the quantizer's loss is of all tokens, so the
    i-th gets a gradient of the picture with probability (K - i) / K and what matters comes first. Training as
    TiTok's, in both stages with tail drop. `tokens[:k]` keeps k tokens of 12 bits; of pictures in several
    tiles, the first k / tiles of each. Evaluation never drops.

    Raises:
        ConfigError: patches that do not fill the picture; a proxy that does not fit the patches.
        MediaError: pixels that are not RGB in [0, 1].
        FormatError: ids outside the codebook, or fewer tokens than tiles.
    """

    config: OneDPieceConfig
    ordered = True
    config_class = OneDPieceConfig

    def __init__(self, config: OneDPieceConfig | None = None) -> None:
        super().__init__(config or OneDPieceConfig())

    def forward(self, pictures: Float[Tensor, "b 3 s s"]) -> Painting:
        """Tokens and back; in training the picture is of the first tokens alone."""
        found = self.quantize(pictures)
        return self.paint(found, self.draw(len(pictures)) if self.training else None)

    def draw(self, count: int) -> Int[Tensor, "b"]:
        """How many tokens each of `count` samples keeps, from 1 to all."""
        draws = count if self.config.per_sample else 1
        if self.config.prefix == "uniform":
            kept = torch.randint(1, self.length + 1, (draws,))
        else:
            exponent = torch.randint((self.length - 1).bit_length() + 1, (draws,))
            kept = (2**exponent).clamp(max=self.length)
        return kept.expand(count).to(self.encoder.latents.device)


@torch.no_grad()
def token_contribution(
    tokenizer: OneDimensionalTokenizer,
    pictures: Float[Tensor, "b 3 s s"],
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "k s s"], Float[Tensor, "k s s"]]:
    """How much every token tells of every pixel: it is replaced by a random code and decoded again.

    Returns:
        Absolute and squared differences, summed over channels, means over pictures.

    Raises:
        ConfigError: a tokenizer of continuous tokens, or no picture.
    """
    if not tokenizer.codebook_sizes or not len(pictures):
        raise ConfigError(
            "contributions are of codes in pictures: give pictures, and a tokenizer with a codebook"
        )
    ids = torch.cat([tokenizer.quantize(some).ids for some in pictures.split(AT_ONCE)])
    replaced = torch.randint(tokenizer.codebook_sizes[0], ids.shape, generator=generator).to(ids.device)
    whole = torch.cat([tokenizer.decode_tiles(some) for some in ids.split(AT_ONCE)])
    absolute, squared = [], []
    for rank in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, rank] = replaced[:, rank]
        other = torch.cat([tokenizer.decode_tiles(some) for some in changed.split(AT_ONCE)])
        difference = (other - whole)[:, :, 0].float()
        absolute.append(difference.abs().sum(1).mean(0))
        squared.append(difference.square().sum(1).mean(0))
    return torch.stack(absolute), torch.stack(squared)


def first_token_groups(ids: Int[Tensor, "b k q"]) -> dict[int, list[int]]:
    """Pictures with the same first code, which share their coarse layout: code → their numbers."""
    groups: dict[int, list[int]] = {}
    for number, code in enumerate(ids[:, 0, 0].tolist()):
        groups.setdefault(code, []).append(number)
    return groups
