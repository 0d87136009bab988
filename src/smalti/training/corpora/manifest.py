"""What a corpus holds, on disk as `manifest.json`, written anew after every package.

```
root/
├── manifest.json   recipe's fingerprint, packages done, items
└── files/          pictures or clips as they came, flat
```
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smalti.errors import ConfigError, IntegrityError, nearest
from smalti.training.corpora.recipe import SPLITS

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Item:
    """A picture, a clip or a part of one.

    Attributes:
        file: path below the corpus' root.
        split: train, val, held-out, or seen (new frames of a domain that training saw).
        package, version: where it came from.
        inner: its path in there.
        licence: what the package says.
        sha256: of the file.
        width, height: pixels.
        frames: of the whole file; 1 for a picture.
        fps: frames a second; none for a picture.
        start, end: seconds that are meant, [start, end); none: the whole file.
        hash: difference hash of a picture, 256 bits in hex.
    """

    file: str
    split: str
    package: str
    version: str
    inner: str
    licence: str
    sha256: str
    width: int
    height: int
    frames: int = 1
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    hash: str = ""


@dataclass
class Corpus:
    """Items under a folder.

    Attributes:
        root: the folder.
        items: all items, in the recipe's order.
    """

    root: Path
    items: list[Item] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def split(self, name: str) -> Corpus:
        """The items of one split.

        Raises:
            ConfigError: no split of that name.
        """
        if name not in SPLITS:
            raise ConfigError(f"no split is called {name!r}: {nearest(name, SPLITS)}")
        return Corpus(self.root, [item for item in self.items if item.split == name])

    def path(self, item: Item) -> Path:
        """Where an item's file lies."""
        return self.root / item.file

    def counts(self) -> dict[str, int]:
        """Split → number of items."""
        present = {name: len(self.split(name)) for name in SPLITS}
        return {name: count for name, count in present.items() if count}


@dataclass
class Manifest:
    """The state of an assembly.

    Attributes:
        corpus: its name.
        recipe: fingerprint of the recipe that it follows.
        packages: package done → what was dropped: inner path → why.
        items: of the packages that are done.
    """

    corpus: str
    recipe: str
    packages: dict[str, dict[str, str]] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> Manifest | None:
        """The manifest in a folder, or none.

        Raises:
            IntegrityError: not a manifest.
        """
        path = root / MANIFEST
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
            return cls(**{**content, "items": [Item(**item) for item in content["items"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"{path}: not a manifest ({error}): remove it and run again") from error

    def forget(self, packages: set[str]) -> None:
        """Count packages as not done."""
        self.items = [item for item in self.items if item.package not in packages]
        for package in packages:
            del self.packages[package]

    def write(self, root: Path) -> None:
        """Replace the manifest in a folder, wholly or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        write_whole(root / MANIFEST, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then give it its own."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
