from typing import Any

from smalti.nn.magvit_vq_networks import MagvitVQSizes

TINY: dict[str, Any] = {
    "sizes": MagvitVQSizes(8, (1, 2), (False,), 1, 4),
    "pyramid": (1, 2, 4, 4),
    "words": 64,
    "dim": 4,
}
