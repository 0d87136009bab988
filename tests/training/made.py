"""A corpus of three pictures and two short clips, made by the tests."""

from __future__ import annotations

from pathlib import Path

from smalti.training.corpora import Corpus
from smalti.training.corpora.manifest import Item
from tests.training.corpora.packs import clip, photograph

PICTURE, CLIP = (120, 160), (48, 64)


def photos(root: Path) -> Corpus:
    items = []
    for seed in range(3):
        (root / f"{seed}.png").write_bytes(photograph(seed))
        items.append(item(f"{seed}.png", *PICTURE, split="val" if seed == 2 else "train"))
    return Corpus(root, items)


def clips(root: Path, frames: int = 12) -> Corpus:
    """The second item is the second half of the same file."""
    clip(root / "clip.mp4", frames)
    whole = item("clip.mp4", *CLIP, frames=frames, fps=6.0)
    half = item("clip.mp4", *CLIP, frames=frames, fps=6.0, start=frames / 12, end=frames / 6)
    return Corpus(root, [whole, half])


def item(file: str, height: int, width: int, split: str = "train", **more) -> Item:
    return Item(file, split, "made", "1", file, "CC0-1.0", "", width, height, **more)
