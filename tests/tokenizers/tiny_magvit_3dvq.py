from typing import Any

from smalti.nn.magvit_vq_networks import MagvitVQSizes
from smalti.quantizers.vq import VectorQuantizerConfig

TINY: dict[str, Any] = {
    "sizes": MagvitVQSizes(8, (1, 1, 2), (True, False), 1, 4),
    "quantizer": VectorQuantizerConfig(32, 4, learn="gradient", entropy=0.1),
}
