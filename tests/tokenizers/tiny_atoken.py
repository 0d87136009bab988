from typing import Any

TINY: dict[str, Any] = {
    "patch": (2, 4, 4),
    "latent": 12,
    "levels": (4,) * 6,
    "codes": 2,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "hidden": 40,
    "chunk": 2,
    "table": 4,
}
