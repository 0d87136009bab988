from typing import Any

from smalti.nn.latent_queries import TowerConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.one_dimensional import ProxyConfig

TINY: dict[str, Any] = {
    "length": 6,
    "encoder": TowerConfig(32, 2, 4),
    "decoder": TowerConfig(32, 2, 4),
    "quantizer": VectorQuantizerConfig(1024, 2, learn="gradient", normalize=True),
    "proxy": ProxyConfig(16, 32, 32, (1, 1, 2), 1),
    "size": 16,
    "patch": 4,
}
