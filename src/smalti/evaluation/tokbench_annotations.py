"""Where words and faces are in a picture, in the JSON that TokBench publishes.

```
text.json  [{file_name, height, width, annotations: [{rec, bbox [4], ratio}]}]        ─┐
face.json  [{image_name, img_height, img_width, faces: [{kps [5][2], box [4], ratio}]}] ┴─► Annotated
```

Coordinates are pixels of the picture at its own size; boxes are left, top, right, bottom. The ratio is the
scale of a word or face: it does not change when the picture is resized together with its boxes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from smalti.errors import FormatError

TEXT_FILE = "text.json"
FACE_FILE = "face.json"

Number = int | float
Box = tuple[Number, Number, Number, Number]
Points = tuple[tuple[Number, Number], ...]


class Word(NamedTuple):
    """A word.

    Attributes:
        text: what it says.
        box: left, top, right, bottom.
        ratio: average length of a character over the longer side of the picture.
    """

    text: str
    box: Box
    ratio: float


class Face(NamedTuple):
    """A face.

    Attributes:
        points: left eye, right eye, tip of the nose, left and right corner of the mouth, as the picture
            shows them; (x, y) each.
        box: left, top, right, bottom.
        ratio: the longer side of the box over that of the picture.
    """

    points: Points
    box: Box
    ratio: float


@dataclass(frozen=True)
class Annotated:
    """A picture's words and faces.

    Attributes:
        name: of the picture's file.
        height, width: of the picture, in pixels.
        words, faces: in it.
    """

    name: str
    height: int
    width: int
    words: tuple[Word, ...] = ()
    faces: tuple[Face, ...] = ()


def word(text: str, box: Box, height: int, width: int) -> Word:
    """A word with its ratio: (longer side of the box / characters) / longer side of the picture.

    Raises:
        FormatError: no character, or a box without area.
    """
    if not text:
        raise FormatError(f"the word in {box} has no character: leave it out")
    return Word(text, box, _long_side(box) / len(text) / max(height, width))


def face(points: Points, box: Box, height: int, width: int) -> Face:
    """A face with its ratio: longer side of the box / longer side of the picture.

    Raises:
        FormatError: not five points, or a box without area.
    """
    if len(points) != 5:
        raise FormatError(f"the face in {box} has {len(points)} key points, five are needed")
    return Face(points, box, _long_side(box) / max(height, width))


def read_annotations(folder: Path) -> list[Annotated]:
    """Every picture that `text.json` or `face.json` of a folder names, in order of name.

    Raises:
        FormatError: neither file, one that is not JSON, a key that is missing, or two sizes for one picture.
    """
    found: dict[str, Annotated] = {}
    files = [folder / name for name in (TEXT_FILE, FACE_FILE) if (folder / name).is_file()]
    if not files:
        raise FormatError(f"{folder}: holds neither {TEXT_FILE} nor {FACE_FILE}")
    for path in files:
        read = _text_picture if path.name == TEXT_FILE else _face_picture
        try:
            pictures = [read(entry) for entry in json.loads(path.read_text("utf-8"))]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: not annotations ({type(error).__name__}: {error})") from error
        for each in pictures:
            known = found.setdefault(each.name, replace(each, words=(), faces=()))
            if (known.height, known.width) != (each.height, each.width):
                raise FormatError(
                    f"{path}: {each.name} is {each.height} × {each.width} here and "
                    f"{known.height} × {known.width} before"
                )
            found[each.name] = replace(known, words=known.words + each.words, faces=known.faces + each.faces)
    return [found[name] for name in sorted(found)]


def write_annotations(pictures: Iterable[Annotated], folder: Path) -> None:
    """`text.json` and `face.json` into a folder."""
    pictures = list(pictures)
    texts = [
        {
            "file_name": each.name,
            "height": each.height,
            "width": each.width,
            "annotations": [{"rec": w.text, "bbox": list(w.box), "ratio": w.ratio} for w in each.words],
        }
        for each in pictures
        if each.words
    ]
    faces = [
        {
            "image_name": each.name,
            "img_height": each.height,
            "img_width": each.width,
            "faces": [
                {"kps": list(map(list, f.points)), "box": list(f.box), "ratio": f.ratio} for f in each.faces
            ],
        }
        for each in pictures
        if each.faces
    ]
    for name, content in ((TEXT_FILE, texts), (FACE_FILE, faces)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _text_picture(entry: dict[str, Any]) -> Annotated:
    height, width = int(entry["height"]), int(entry["width"])
    words = (word(str(w["rec"]), _box(w["bbox"]), height, width) for w in entry["annotations"])
    return Annotated(entry["file_name"], height, width, words=tuple(words))


def _face_picture(entry: dict[str, Any]) -> Annotated:
    height, width = int(entry["img_height"]), int(entry["img_width"])
    faces = (
        face(tuple((float(x), float(y)) for x, y in f["kps"]), _box(f["box"]), height, width)
        for f in entry["faces"]
    )
    return Annotated(entry["image_name"], height, width, faces=tuple(faces))


def _box(numbers: list[Number]) -> Box:
    left, top, right, bottom = map(float, numbers)
    return left, top, right, bottom


def _long_side(box: Box) -> float:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise FormatError(f"the box {box} has no area: it is left, top, right, bottom")
    return float(max(right - left, bottom - top))
