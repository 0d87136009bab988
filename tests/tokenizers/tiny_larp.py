from typing import Any

from smalti.quantizers.vq import VectorQuantizerConfig

TINY: dict[str, Any] = {
    "tokens": 6,
    "frames": 4,
    "size": 16,
    "dim": 32,
    "heads": 4,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "quantizer": VectorQuantizerConfig(64, 8, learn="gradient", normalize=True, temperature=0.03),
}
