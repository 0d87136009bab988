from typing import Any

from smalti.quantizers.grouped import GroupedConfig
from smalti.quantizers.vq import VectorQuantizerConfig

TINY: dict[str, Any] = {
    "quantizer": GroupedConfig(
        VectorQuantizerConfig(64, 4, learn="gradient", normalize=True, entropy=0.03, entropy_epsilon=1e-5),
        2,
        0.1,
    ),
    "multiples": (1, 1, 2),
    "channels": 8,
    "blocks": 1,
    "latent": 8,
    "groups": 4,
    "head_depth": 1,
    "head_heads": 2,
    "teachers": (16,),
    "teacher_depth": 1,
    "size": 16,
}
