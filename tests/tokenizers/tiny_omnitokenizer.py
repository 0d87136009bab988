from typing import Any

from smalti.quantizers.vq import VectorQuantizerConfig

TINY: dict[str, Any] = {
    "dim": 16,
    "patch": 4,
    "tube": 2,
    "encoder_blocks": "tw",
    "decoder_blocks": "tt",
    "time_depth": 2,
    "heads": 2,
    "dim_head": 8,
    "window": 3,
    "quantizer": VectorQuantizerConfig(64, 8),
    "lookback": 3,
}
