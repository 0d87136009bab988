"""Other people's tokenizers, of which only pictures are here: originals and what came back.

```
folder/reference/*.png ──► dataset ─┐
folder/<peer>/*.png ──► Reconstructions, a coder ──► sweep ──► a Report a peer
```
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from smalti import media
from smalti.errors import MediaError
from smalti.evaluation import environment
from smalti.evaluation.codecs import Coded
from smalti.evaluation.dataset import Dataset, dataset
from smalti.evaluation.judges import Judges
from smalti.evaluation.rate_distortion import sweep
from smalti.evaluation.report import Report
from smalti.media.progress import Report as Progress

REFERENCE = "reference"
LEFT_OUT = "circle"  # flat drawings whose published figures were taken before clipping
PRECISION = 16


class Latent(NamedTuple):
    """What a continuous tokenizer stores: `channels` numbers of 16 bits for every patch."""

    patch: int
    channels: int


LATENTS = {
    "cosmos-8x8": Latent(8, 16),
    "cosmos-16x16": Latent(16, 16),
    "stable-diffusion-3.5-VAE": Latent(8, 16),
}


class Reconstructions:
    """A folder of pictures as a coder: what it gives back for an original is the file of the same name.

    Args:
        folder: of one peer; its name is the coder's.
        originals: the data.

    Raises:
        MediaError: no picture for one of the originals.
    """

    settings = (1,)

    def __init__(self, folder: Path, originals: Dataset) -> None:
        self.name = folder.name
        self.latent = LATENTS.get(folder.name)
        self.files: dict[str, Path] = {}
        for path, sample in zip(originals.paths, originals, strict=True):
            if not (folder / path.name).is_file():
                raise MediaError(f"{folder}: has no {path.name}, which {path.parent} has")
            self.files[_digest(sample.pixels)] = folder / path.name

    def round_trip(self, pixels: Float[Tensor, "1 3 t h w"], setting: int, fps: float) -> Coded:
        """The picture that came back; the bits are those of its latents at 16 bits a number, if known.

        Raises:
            MediaError: pixels that are none of the originals, or a picture of another size.
        """
        path = self.files.get(_digest(pixels))
        if path is None:
            raise MediaError(f"{self.name}: has no reconstruction of these pixels")
        back = media.read(path, progress=False).pixels
        tokens, size = self._size(*pixels.shape[3:])
        return Coded(size, back, math.nan, math.nan, tokens)

    def _size(self, height: int, width: int) -> tuple[float, float]:
        if self.latent is None:
            return math.nan, math.nan
        tokens = math.ceil(height / self.latent.patch) * math.ceil(width / self.latent.patch)
        return float(tokens), tokens * self.latent.channels * PRECISION / 8


def references(folder: Path) -> list[Path]:
    """The originals: what to give `smalti evaluate` for a tokenizer to stand beside the peers.

    Raises:
        MediaError: no folder of references.
    """
    found = sorted((folder / REFERENCE).glob("*.png"))
    kept = [path for path in found if not path.name.startswith(LEFT_OUT)]
    if not kept:
        raise MediaError(f"{folder}: has no pictures in {REFERENCE}/")
    return kept


def peer_reports(
    folder: Path, judges: bool = True, progress: bool | Progress | None = None
) -> Sequence[Report]:
    """An evaluation of every peer in a folder.

    Args:
        folder: holds `reference/` and one folder a peer, with pictures of the same names.
        judges: also the learned figures.
        progress: see `smalti.media.progress.track`.

    Raises:
        MediaError: a picture is missing or cannot be read, or differs in size.
        UnsupportedError: judges' weights cannot be fetched.
    """
    started = time.perf_counter()
    data = dataset(references(folder))
    names = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != REFERENCE)
    coders = [Reconstructions(path, data) for path in names]
    found = sweep(data, coders, Judges() if judges else None, progress)
    record = {
        "kind": data.kind,
        "count": len(data),
        "names": [path.name for path in data.paths],
        "max_frames": None,
        "sha256": data.digest,
    }
    run = environment.describe(command="", seed=0, seconds=time.perf_counter() - started, data=record)
    return [
        Report(
            tokenizer=_describe(coder),
            points=tuple(point for point in found.means if point.codec == coder.name),
            samples=tuple(point for point in found.samples if point.codec == coder.name),
            usage=(),
            run=run,
            notes=tuple(filter(None, (found.note,))),
        )
        for coder in coders
    ]


def _describe(coder: Reconstructions) -> dict[str, object]:
    patch = coder.latent.patch if coder.latent else 0
    return {
        "name": coder.name,
        "class": "published reconstructions",
        "fingerprint": "",
        "parameters": math.nan,
        "compression": [1, patch, patch],
        "codebook_sizes": [],
        "stages": [],
    }


def _digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
