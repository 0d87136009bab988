"""TiTok: a picture is 32 to 256 tokens without places."""

from __future__ import annotations

from dataclasses import dataclass

from smalti.nn.latent_queries import BASE, LARGE, SMALL
from smalti.registry import Official, Paper, system
from smalti.tokenizers.one_dimensional import (
    ONE_STAGE,
    OneDimensionalConfig,
    OneDimensionalTokenizer,
    variational,
)


@dataclass(frozen=True)
class TiTokConfig(OneDimensionalConfig):
    """As of `OneDimensionalConfig`; the official presets."""


@system(
    "titok",
    room="tokenizers",
    paper=Paper(
        "An Image is Worth 32 Tokens for Reconstruction and Generation",
        2024,
        "https://arxiv.org/abs/2406.07550",
    ),
    official=Official("bytedance/1d-tokenizer", "Apache-2.0"),
    presets={
        "titok_s128": TiTokConfig(),
        "titok_b64": TiTokConfig(64, BASE, BASE),
        "titok_l32": TiTokConfig(32, LARGE, LARGE),
        "titok_bl64_vq8k": TiTokConfig(64, BASE, LARGE, ONE_STAGE, None),
        "titok_bl128_vq8k": TiTokConfig(128, BASE, LARGE, ONE_STAGE, None),
        "titok_sl256_vq8k": TiTokConfig(256, SMALL, LARGE, ONE_STAGE, None),
        "titok_ll32_vae_c16": TiTokConfig(32, LARGE, LARGE, variational(16, 32), None),
        "titok_bl64_vae_c16": TiTokConfig(64, BASE, LARGE, variational(16, 64), None),
        "titok_bl128_vae_c16": TiTokConfig(128, BASE, LARGE, variational(16, 128), None),
    },
    tags=("image", "discrete", "continuous", "sequence"),
)
class TiTok(OneDimensionalTokenizer):
    """A few codes without places for a whole picture (TiTok: Yu et al., 2024, arXiv 2406.07550).

    ```
    picture [b 3 256 256] ─► patches 16×16, class, k queries ─► ViT ─► z [b k 12] ─► l2 VQ ─► ids [b k 1]
    256 mask tokens, class, k codes ─► ViT ─► logits of MaskGIT-VQGAN's 1024 codes ─► its decoder ─► pixels
    ```
    Pixels in [0, 1] without mean or deviation. Official training: stage 1 predicts a frozen MaskGIT-VQGAN's
    codes (cross-entropy + quantizer loss; AdamW 1e-4, betas 0.9 and 0.99, 1M steps of 256 pictures), stage 2
    freezes the encoder side (`freeze_encoder`) and trains both decoders on pixels (L2 + 0.1 perceptual + 0.01
    hinge GAN, 500k steps). `…_vq8k` and `…_vae_c16` predict pixels in one stage.
    Larger pictures and frames are worked on in tiles of `size` pixels. Deviations: continuous tokens are the
    mean of the posterior outside training, where the official ones are always drawn; the clustering update of
    the codebook, off in all official presets, is not here.

    Raises:
        ConfigError: patches that do not fill the picture; a proxy that does not fit the patches.
        MediaError: pixels that are not RGB in [0, 1].
        FormatError: ids outside the codebook, or fewer tokens than all.
    """

    config_class = TiTokConfig

    def __init__(self, config: TiTokConfig | None = None) -> None:
        super().__init__(config or TiTokConfig())

    def freeze_encoder(self) -> None:
        """Leave only the decoders to learn, as the second stage does."""
        for part in (self.encoder, self.quantizer):
            part.requires_grad_(False)
