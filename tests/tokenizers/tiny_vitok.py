from typing import Any

TINY: dict[str, Any] = {
    "width": 24,
    "encoder_depth": 1,
    "decoder_depth": 2,
    "heads": 2,
    "tube": 2,
    "patch": 4,
    "channels": 4,
    "positions": "sincos3d",
}
