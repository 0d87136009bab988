from typing import Any

from smalti.quantizers.vq import VectorQuantizerConfig

TINY: dict[str, Any] = {
    "dim": 24,
    "patch": 4,
    "space_depth": 1,
    "time_depth": 2,
    "heads": 2,
    "dim_head": 8,
    "quantizer": VectorQuantizerConfig(64, 8, learn="gradient", normalize=True),
    "lookback": 3,
}
