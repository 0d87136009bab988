"""`smalti train`: train by a recipe."""

from __future__ import annotations

from typing import Annotated

import tyro

from smalti.cli import options, screen
from smalti.errors import ConfigError


def command(
    recipe: options.File,
    changes: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE...")] = (),
    start_from: Annotated[str | None, tyro.conf.arg(metavar="WEIGHTS")] = None,
) -> None:
    """Train by a recipe; run again after a stop, and it goes on from its last checkpoint.

    Args:
        recipe: a YAML file, such as `recipes/mosaic/default.yaml`.
        changes: keys of the recipe to change, such as `loop.steps=100` or `loop.learning_rate=1e-4`.
        start_from: weights to start from: a shipped name such as `mosaic`, a file, a folder or a hub id.
    """
    import yaml

    overrides = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r}: write KEY=VALUE, such as loop.steps=100")
        overrides[key] = yaml.safe_load(value)
    if start_from is not None:
        overrides["start_from"] = start_from

    from smalti.training.train import train

    screen.console().print(f"weights: {train(recipe, overrides)}")
