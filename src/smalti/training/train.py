"""`train`: run a recipe to its end, or go on where a run of it stopped.

```
Recipe ──► create ──► system ──► run(stage) ──► averaged weights ──► run(stage) ──► … ──► weights.write
                                    └── runs/NAME/STAGE/: checkpoint.pt, log.jsonl
```
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti import registry, weights
from smalti.errors import ConfigError, nearest
from smalti.tokenizers.base import Tokenizer
from smalti.training.checkpoint import CHECKPOINT
from smalti.training.loop import fit
from smalti.training.objectives import objective
from smalti.training.recipe import DTYPES, Recipe, Stage, load, record
from smalti.training.sources import source

fingerprint = Tokenizer.fingerprint  # it names the weights of any module


def train(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    runs: Path = Path("runs"),
    minutes: float = math.inf,
) -> Path:
    """Train by a recipe, or go on where a run of it stopped, and write the weights.

    Args:
        path: of the recipe.
        overrides: dotted keys to change.
        runs: holds a folder for every recipe's checkpoints and logs.
        minutes: after which the first stage stops, to be resumed by another call; the later stages run, and
            weights are written, all the same.

    Returns:
        The file of the weights.

    Raises:
        ConfigError: a recipe that does not fit.
        KeyboardInterrupt: a signal ended the training; the same call goes on from there.
    """
    recipe = load(path, overrides)
    folder = runs / recipe.name
    record(recipe, folder)
    system = create(recipe)
    for number, (name, stage) in enumerate(recipe.stages.items()):
        if number == 0:
            run(stage, system, folder / name, recipe.start_from is None, minutes)
        else:  # a checkpoint belongs to the weights that its stage started from
            run(stage, system, folder / f"{name}-{fingerprint(system)}")
    output = folder / recipe.output
    weights.write(system, output, DTYPES[recipe.dtype])
    return output


def create(recipe: Recipe) -> nn.Module:
    """The recipe's system, with random weights or those to start from.

    Raises:
        ConfigError: no such system, preset or field, or weights that do not fit.
    """
    card = registry.card(recipe.system, recipe.room)
    preset = next(iter(card.presets)) if recipe.preset is None else recipe.preset
    if preset not in card.presets:
        raise ConfigError(f"{card.name} has no preset {preset!r}: {nearest(preset, card.presets)}")
    config = card.presets[preset]
    if recipe.changes:
        config = weights.build(type(config), merged(weights.written(config), recipe.changes))
    torch.manual_seed(next(iter(recipe.stages.values())).loop.seed)
    system = card.cls(config)
    if recipe.start_from is not None:
        take_over(system, recipe.start_from)
    return system


def take_over(system: nn.Module, place: str) -> None:
    """Load weights: shipped ones by name, a file, a folder, or an id of the hub.

    Raises:
        ConfigError: nothing there, or the weights of another system or of other sizes.
    """
    path = weights.shipped().get(place, Path(place))
    given = weights.read(path if path.is_file() else weights.locate(place))
    if type(given) is not type(system):
        raise ConfigError(f"{place} holds {type(given).__name__}, not {type(system).__name__}")
    try:
        system.load_state_dict(given.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"{place} does not fit this preset of {type(system).__name__}: {error}") from error


def run(
    stage: Stage, system: nn.Module, folder: Path, fresh: bool = False, minutes: float = math.inf
) -> None:
    """One stage; leaves the system with averaged weights, as far as `minutes` allow."""
    data = source.make(stage.data, system)
    torch.manual_seed(stage.loop.seed)
    module = objective.make(stage.objective, system)
    if not (folder / CHECKPOINT).exists():
        module.start(data, fresh)
    average = fit(module.train(), data.batch, stage.loop, folder, report=show, until=60 * minutes)
    module.cpu().load_state_dict(average, strict=False)
    module.finish(system)
    system.eval()


def merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with some changed, also deep inside."""
    changed = {
        key: merged(values[key], change)
        if isinstance(change, Mapping) and isinstance(values.get(key), dict)
        else change
        for key, change in changes.items()
    }
    return {**values, **changed}


def show(step: int, means: dict[str, float]) -> None:
    """Print a line of the log to the terminal."""
    from rich import print as say

    parts = "  ".join(f"{name} {value:.3f}" for name, value in sorted(means.items()))
    say(f"[bold]{step}[/bold]  {parts}")
