"""A recipe of a few steps for a tokenizer of a few thousand weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

CROPS = {
    "pictures": 2,
    "clips": 1,
    "crop": 16,
    "frames": 5,
    "sides": [60],
    "clip_side": 36,
    "segment": 6,
    "every": 0.0,
}
LOOP = {"warmup": 1, "log_every": 2, "save_every": 2, "learning_rate": 1e-3}
OBJECTIVE = {"name": "mosaic", "options": {"stage_weights": [3.0, 2.0, 1.0]}}
ALONE = {
    "name": "alone",
    "system": "mosaic",
    "preset": "tiny",
    "objective": OBJECTIVE,
    "data": {"name": "crops", "options": CROPS},
    "loop": {**LOOP, "steps": 4},
}
TINY = {
    "name": "tiny",
    "system": "mosaic",
    "preset": "tiny",
    "dtype": "float16",
    "stages": {
        "tokenizer": {key: ALONE[key] for key in ("objective", "data", "loop")},
        "context": {
            "objective": {"name": "mosaic-context"},
            "data": {"name": "mosaic-latents", "options": {"crops": CROPS, "batches": 3}},
            "loop": {**LOOP, "steps": 9},
        },
    },
}


def written(folder: Path, values: dict[str, Any] | str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        values if isinstance(values, str) else yaml.safe_dump(copy.deepcopy(values), sort_keys=False)
    )
    return path
