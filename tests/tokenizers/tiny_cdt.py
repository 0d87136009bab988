from typing import Any

from smalti.quantizers.variational import VariationalConfig

TINY: dict[str, Any] = {
    "width": 4,
    "multipliers": (1, 2, 2),
    "unet_width": 4,
    "unet_multipliers": (1, 1, 2, 2),
    "conditions": 3,
    "finest": 4,
    "quantizer": VariationalConfig(4),
    "space_down": (False, True, True),
    "time_down": (False, True, True),
    "steps": 2,
}
