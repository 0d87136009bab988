"""Recipes: what was trained, as YAML, and `train`, which runs one to its end or resumes it.

```
recipe.yaml + overrides ──► Recipe ──► tokenizer, objective, crops ──► fit ──► context model ──► weights
```
Unknown keys are refused with the nearest name. A recipe's `expected` says what to hope for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from smalti import registry, weights
from smalti.errors import ConfigError, nearest
from smalti.tokenizers.mosaic import FRAMES, Mosaic
from smalti.training.context import ContextObjective, ContextSamples
from smalti.training.data import CropConfig, Crops
from smalti.training.loop import CHECKPOINT, LoopConfig, fit
from smalti.training.objectives import MosaicObjective

LOOK = 99  # seed of the crops that training starts from


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    name: of the training; its folder under `runs`.
    tokenizer, preset: what to train.
    expected: the result to hope for, in words.
    crops: the data.
    objective: options of the objective.
    loop: of the tokenizer's training.
    context_crops, context: data and loop of the context model, trained on the finished tokenizer.
    output: file of the weights.
    """

    name: str
    tokenizer: str = "mosaic"
    preset: str = "default"
    expected: str = ""
    crops: CropConfig = field(default_factory=CropConfig)
    objective: dict[str, Any] = field(default_factory=dict)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000))
    context_crops: CropConfig = field(default_factory=CropConfig)
    context: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000))
    output: str = "model.safetensors"

    def __post_init__(self) -> None:
        _, *known = signature(MosaicObjective).parameters
        for key in self.objective:
            if key not in known:
                raise ConfigError(f"the objective has no option {key!r}: {nearest(key, known)}")


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
        return weights.build(Recipe, values)
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


def train(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    runs: Path = Path("runs"),
    minutes: float = float("inf"),
) -> Path:
    """Train by a recipe, or go on where a run of it stopped, and write the weights.

    Args:
        path: of the recipe.
        overrides: dotted keys to change.
        runs: holds a folder for every recipe's checkpoint and log.
        minutes: after which the tokenizer's training stops to be resumed by another call; weights are
            written all the same.

    Returns:
        The file of the weights.

    Raises:
        ConfigError: a recipe that does not fit.
    """
    recipe = load(path, overrides)
    folder = runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    tokenizer = train_tokenizer(recipe, folder, minutes)
    train_context(recipe, tokenizer, folder)
    output = folder / recipe.output
    weights.write(tokenizer.half_precision(), output, torch.float16)
    return output


def train_tokenizer(recipe: Recipe, folder: Path, minutes: float) -> Mosaic:
    """The recipe's tokenizer with averaged weights, as far as `minutes` allow."""
    torch.manual_seed(recipe.loop.seed)
    tokenizer = registry.create(recipe.tokenizer, recipe.preset)
    objective = MosaicObjective(tokenizer, **recipe.objective)
    crops = Crops(recipe.crops)
    if not (folder / CHECKPOINT).exists():
        objective.start_from(*first_look(crops))
    average = fit(objective, crops.batch, recipe.loop, folder, report=show, until=60 * minutes)
    objective.load_state_dict(average, strict=False)
    return tokenizer.eval()


def first_look(crops: Crops, batches: int = 20) -> tuple[Tensor, Tensor]:
    """Pictures [b 3 1 h w] and groups of four frames [b 3 4 h w] to fit principal components on."""
    seen = [crops.batch(step, seed=LOOK) for step in range(batches)]
    groups = torch.cat([batch["clips"][:, :, 1 : 1 + FRAMES] for batch in seen])
    pictures = [batch["pictures"] for batch in seen if "pictures" in batch]
    return torch.cat(pictures) if pictures else groups[:, :, :1], groups


def train_context(recipe: Recipe, tokenizer: Mosaic, folder: Path) -> None:
    """Train the tokenizer's context model on its own tokens of the recipe's crops."""
    torch.manual_seed(recipe.context.seed)
    samples = ContextSamples(tokenizer, Crops(recipe.context_crops))
    objective = ContextObjective(tokenizer.quantizer, tokenizer.config.context)
    own = folder / f"context-{tokenizer.fingerprint()}"  # of these weights: others have other tokens
    average = fit(objective, samples.batch, recipe.context, own, report=show)
    objective.load_state_dict(average, strict=False)
    tokenizer.set_context(objective.arrays(tokenizer.still))


def show(step: int, means: dict[str, float]) -> None:
    """Print a line of the log to the terminal."""
    from rich import print as say

    parts = "  ".join(f"{name} {np.round(value, 3)}" for name, value in sorted(means.items()))
    say(f"[bold]{step}[/bold]  {parts}")
