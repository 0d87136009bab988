"""Pixels through a tokenizer and through the classical codecs, at equal bytes.

```
pixels ──┬─► tokenizer ──► token file: n bytes ──► pixels ──► figures
         └─► codecs: the best setting within n bytes ──► pixels ──► figures
```
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL.Image import Image
from rich.table import Table
from torch import Tensor

from smalti import api, media
from smalti.cli import montage, screen
from smalti.errors import UnsupportedError
from smalti.evaluation.codecs import codecs_for
from smalti.evaluation.metrics import fidelity
from smalti.tokenizers.base import Tokenizer

Pixels = Float[Tensor, "1 3 t h w"]


@dataclass(frozen=True)
class Entry:
    """What one codec made of the pixels.

    Attributes:
        name: as tables and pictures print it.
        bytes: of the whole file or stream.
        pixels: what came back.
        figures: `psnr`, `ssim`, `ms_ssim`; NaN where a frame is too small for a figure.
    """

    name: str
    bytes: int
    pixels: Pixels
    figures: dict[str, float]

    @property
    def bits_per_pixel(self) -> float:
        """Bits for every pixel of every frame."""
        return 8 * self.bytes / (self.pixels.numel() / 3)

    def as_json(self) -> dict[str, object]:
        """The figures under the names that tables use."""
        figures = {name: value if value == value else None for name, value in self.figures.items()}
        return {"name": self.name, "bytes": self.bytes, "bits_per_pixel": self.bits_per_pixel, **figures}


def of_file(path: Path, tokenizer: str | Tokenizer, quality: int | None) -> tuple[Pixels, list[Entry]]:
    """A picture or clip and what everyone made of it; the bytes are those of its token file."""
    whole = media.read(path)
    tokens = api.encode(whole.pixels, tokenizer, quality)
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        file = Path(folder) / "tokens.smt"
        api.save_tokens(tokens, file, tokenizer)
        size = file.stat().st_size
    ours = api.decode(tokens, tokenizer)
    return whole.pixels, list(compare(whole.pixels, ours, size, whole.fps))


def compare(original: Pixels, ours: Pixels, size: int, fps: float | None) -> Iterator[Entry]:
    """Ours first, then every classical codec that this machine has, at no more bytes where it can."""
    yield Entry("Smalti", size, ours, fidelity(original, ours))
    for codec in codecs_for(original.shape[2]):
        try:
            _, coded = codec.within(original, size, fps or 25.0)
        except UnsupportedError as error:
            screen.complain(f"left out: {error}")
            continue
        yield Entry(codec.name, coded.bytes, coded.pixels, fidelity(original, coded.pixels))


COLUMNS = ("codec", " bytes", " bits per pixel", " PSNR dB", " SSIM", " MS-SSIM")


def cells(entry: Entry) -> tuple[str, ...]:
    """An entry under `COLUMNS`; a figure that does not exist for so small a frame is a dash."""
    figures = (("psnr", 2), ("ssim", 4), ("ms_ssim", 4))
    known = ((entry.figures[name], digits) for name, digits in figures)
    words = ("–" if value != value else f"{value:.{digits}f}" for value, digits in known)
    return entry.name, f"{entry.bytes:,}", f"{entry.bits_per_pixel:.3f}", *words


def table(entries: Sequence[Entry], title: str | None = None) -> Table:
    """A row an entry, for the terminal."""
    return screen.table(COLUMNS, map(cells, entries), title)


def html(entries: Sequence[Entry]) -> str:
    """A row an entry, for a page."""
    head = "".join(f"<th>{column.strip()}" for column in COLUMNS)
    rows = "".join("<tr>" + "".join(f"<td>{cell}" for cell in cells(entry)) for entry in entries)
    return f"<table><tr>{head}{rows}</table>"


def picture(original: Pixels, entries: Sequence[Entry]) -> Image:
    """The middle frame of the original and of every entry, with bytes and PSNR."""
    middle = original.shape[2] // 2
    panels = [montage.Panel(original[0, :, middle], "Original", f"{original.shape[4]} x {original.shape[3]}")]
    for entry in entries:
        figures = f"{screen.size(entry.bytes)} · {entry.figures['psnr']:.2f} dB"
        panels.append(montage.Panel(entry.pixels[0, :, middle], entry.name, figures))
    return montage.draw(panels)
