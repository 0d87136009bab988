from typing import Any

from smalti.quantizers.lfq import LFQConfig

TINY: dict[str, Any] = {
    "channels": 8,
    "multipliers": (1, 1, 2),
    "time_down": (False, True),
    "blocks": 1,
    "groups": 4,
    "quantizer": LFQConfig(8),
}
