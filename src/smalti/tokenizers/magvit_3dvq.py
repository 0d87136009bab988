"""MAGVIT's first tokenizer: a 3D VQGAN that looks both ways in time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.magvit_names import inflated
from smalti.nn.magvit_vq_networks import MagvitVQDecoder, MagvitVQEncoder, MagvitVQSizes
from smalti.nn.strict_loading import load_strictly
from smalti.quantizers.base import Quantized
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig
from smalti.registry import Official, Paper, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.extent import fit
from smalti.tokenizers.grids import GridTokenizer


def codes(size: int = 1024, dim: int = 256) -> VectorQuantizerConfig:
    """A codebook that the optimizer learns, with the entropies' loss."""
    return VectorQuantizerConfig(size, dim, learn="gradient", entropy=0.1, entropy_epsilon=1e-5)


@dataclass(frozen=True)
class Magvit3DVQConfig:
    """Attributes:
    sizes: of both networks.
    quantizer: codes, and weights of its loss.
    """

    sizes: MagvitVQSizes = field(default_factory=MagvitVQSizes)
    quantizer: VectorQuantizerConfig = field(default_factory=codes)

    def __post_init__(self) -> None:
        if self.quantizer.learn != "gradient":
            raise ConfigError("the codebook of MAGVIT learns by gradient: set learn to that")


@system(
    "magvit-3dvq",
    room="tokenizers",
    paper=Paper("MAGVIT: Masked Generative Video Transformer", 2022, "https://arxiv.org/abs/2212.05199"),
    official=Official("google-research/magvit", "Apache-2.0"),
    presets={
        "vqgan3d-B": Magvit3DVQConfig(),
        "vqgan3d-L": Magvit3DVQConfig(MagvitVQSizes(128)),
        "vqgan3d-H": Magvit3DVQConfig(MagvitVQSizes(128, blocks=4), codes(4096, 512)),
    },
    tags=("video", "discrete"),
)
class Magvit3DVQ(GridTokenizer):
    """Clips as a grid of codes, 4×8×8 pixels each, by a 3D VQGAN (MAGVIT: Yu et al., 2022, arXiv 2212.05199).

    ```
    pixels [b 3 16 128 128] ─► MagvitVQEncoder ─► [b 256 4 16 16] ─► nearest of 1024 codes ─► ids
    pixels ◄────────────────── MagvitVQDecoder ◄─────────────────────────────── codes ◄───────┘
    ```
    It looks both ways in time, so it does not stream. Pixels are in [0, 1] inside too. Discriminator and
    perceptual loss are the recipe's; `inflate` starts it from a model of pictures, as the authors did.

    Raises:
        ConfigError: levels and steps that do not fit.
    """

    def __init__(self, config: Magvit3DVQConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or Magvit3DVQConfig()
        self.compression = config.sizes.compression
        self.encoder = MagvitVQEncoder(config.sizes, config.quantizer.dim)
        self.decoder = MagvitVQDecoder(config.sizes, config.quantizer.dim)
        self.quantizer = VectorQuantizer(config.quantizer)
        self.codebook_sizes = self.quantizer.codebook_sizes

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> tuple[Float[Tensor, "b 3 t h w"], Quantized]:
        """Reconstruction and codes, for training."""
        found = self.quantizer(self.encoder(video).movedim(1, -1))
        return self.decoder(found.values.to(video.dtype).movedim(-1, 1)), found

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, of any size."""
        padded, _ = fit(pixels, self.compression)
        frames, found = self.forward(padded)
        cropped = frames[:, :, : pixels.shape[2], : pixels.shape[3], : pixels.shape[4]]
        parts = {name: each.mean() for name, each in found.stats.items()}
        return Reconstruction(cropped, found.loss, parts)

    def encode_grid(self, pixels: Float[Tensor, "b 3 t h w"]) -> Int[Tensor, "b s i j 1"]:
        """Ids."""
        latents = self.encoder(pixels.to(self.encoder.enter.weight.dtype))
        return self.quantizer(latents.movedim(1, -1)).ids

    def decode_grid(self, codes: Int[Tensor, "b s i j 1"]) -> Float[Tensor, "b 3 t h w"]:
        """Pixels."""
        values = self.quantizer.lookup(codes).movedim(-1, 1)
        return self.decoder(values.to(self.decoder.enter.weight.dtype))

    @torch.no_grad()
    def inflate(self, pictures: Magvit3DVQ) -> Magvit3DVQ:
        """Take over the weights of a model of pictures, in the middle frame of every kernel.

        Raises:
            ConfigError: levels, channels or codes that differ.
        """
        load_strictly(self, inflated(pictures.state_dict(), self.state_dict(), "middle"))
        return self
