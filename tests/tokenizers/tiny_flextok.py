from typing import Any

from smalti.nn.latent_autoencoder import LatentAutoencoderConfig
from smalti.tokenizers.flextok_resampler import FlexTokResamplerConfig

TINY: dict[str, Any] = {
    "resampler": FlexTokResamplerConfig(
        channels=4,
        grid=(2, 2),
        registers=8,
        levels=(8, 5, 5),
        encoder_dim=32,
        encoder_depth=2,
        decoder_dim=48,
        decoder_depth=3,
        head_dim=16,
    ),
    "autoencoder": LatentAutoencoderConfig(4, (8, 16, 16), 1, 4),
    "steps": 2,
}
