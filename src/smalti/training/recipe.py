"""Recipes: what is trained and how, as YAML, and `train`, which runs one to its end or resumes it.

```
recipe.yaml + overrides ──► Recipe ──► system ──► stage: objective, data, loop ──► … ──► weights
```
Every stage starts from the averaged weights of the one before. Unknown keys are refused with the nearest
name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from smalti import weights
from smalti.errors import ConfigError, nearest
from smalti.training.loop import LoopConfig
from smalti.training.objectives import objective
from smalti.training.parts import Choice
from smalti.training.sources import source

ONLY = "training"  # name of the one stage of a recipe that writes its keys beside the others
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Stage:
    """Attributes:
    objective, data: by their registered names, with options.
    loop: how long and how fast.
    """

    objective: Choice
    data: Choice
    loop: LoopConfig

    def __post_init__(self) -> None:
        objective.options(self.objective)
        source.options(self.data)


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    name: of the training; its folder under `runs`.
    system: what to train.
    room: the system's room, where its name stands in several.
    preset: of the system; its default when not given.
    changes: fields of the preset's configuration to change.
    start_from: weights to go on from: a shipped name, a file, a folder or a hub id; random when not given.
    expected: the result to hope for, in words.
    stages: name → stage, run one after the other.
    output: file of the weights.
    dtype: of the weights in that file.
    """

    name: str
    system: str
    room: str | None = None
    preset: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    expected: str = ""
    stages: dict[str, Stage] = field(default_factory=dict)
    output: str = "model.safetensors"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"recipe {self.name}: no stage: give objective, data and loop, or stages")
        if self.dtype not in DTYPES:
            raise ConfigError(f"no dtype {self.dtype!r}: {nearest(self.dtype, DTYPES)}")


def load(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a YAML file, with dotted keys changed: `{"loop.steps": 100}`.

    Raises:
        ConfigError: no such file, no YAML, or a key that no recipe has.
    """
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as a recipe: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no recipe: a mapping of keys was expected")
    for key, value in (overrides or {}).items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key}: {parent} holds no keys in {path}")
        place[last] = value
    try:
        stages = _stages(values)
        return weights.build(Recipe, {**values, "stages": stages})
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _stages(values: dict[str, Any]) -> dict[str, Stage]:
    """The stages, taken out of a recipe's values; keys of a lone stage may stand beside the recipe's own."""
    alone = {f.name: values.pop(f.name) for f in fields(Stage) if f.name in values}
    named = values.pop("stages", {})
    if alone and named:
        raise ConfigError(f"{', '.join(alone)} beside stages: put them into the stage that they belong to")
    if alone:
        named = {ONLY: alone}
    if not isinstance(named, dict):
        raise ConfigError("stages: a mapping of names to stages was expected")
    return {str(name): _stage(str(name), stage) for name, stage in named.items()}


def _stage(name: str, values: Any) -> Stage:
    if not isinstance(values, dict):
        raise ConfigError(f"stage {name}: a mapping with objective, data and loop was expected")
    for each in fields(Stage):
        if not isinstance(values.get(each.name), dict):
            raise ConfigError(f"stage {name}: {each.name} must be a mapping, not {values.get(each.name)!r}")
    return weights.build(Stage, values)


def record(recipe: Recipe, folder: Path) -> None:
    """Write the recipe as it is run into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
