"""Random crops of a corpus, held in memory: a batch depends on the seed and the step alone.

```
corpus ──► pool: pictures at two sizes, segments of clips (uint8, in memory) ──► batch(step)
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.media import open_clip, read
from smalti.media.progress import track
from smalti.training.corpora import Corpus, assemble
from smalti.training.sources.base import source


@dataclass(frozen=True)
class CropConfig:
    """Attributes:
    pictures, clips: samples of each in a batch.
    crop: pixels a side.
    frames: frames of a clip.
    sides: shorter sides that pictures are scaled down to; crops come from all of them.
    clip_side: shorter side of clips.
    segment: frames of a segment kept in memory; clips are cut from anywhere in it.
    every: seconds from one segment to the next.
    most: segments of one clip.
    alternate: batches of even numbers hold pictures alone, odd ones clips alone.
    growth: pairs of a batch's number and the side of crops from there on, instead of `crop`.

    Raises:
        ConfigError: nothing to alternate between, or growth that is not in order.
    """

    pictures: int = 12
    clips: int = 3
    crop: int = 128
    frames: int = 9
    sides: tuple[int, ...] = (640, 360)
    clip_side: int = 288
    segment: int = 13
    every: float = 0.7
    most: int = 240
    alternate: bool = False
    growth: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.alternate and not (self.pictures and self.clips):
            raise ConfigError("alternate: give pictures and clips to alternate between")
        if any(len(pair) != 2 for pair in self.growth) or sorted(self.growth) != list(self.growth):
            raise ConfigError(f"growth {self.growth}: pairs of a batch and a side are needed, in order")

    def side(self, number: int) -> int:
        """Of the crops of a batch."""
        return next((side for begin, side in reversed(self.growth) if number >= begin), self.crop)

    @property
    def largest(self) -> int:
        """Side of the largest crops."""
        return max(self.crop, *(side for _, side in self.growth), 0)


def scaled(height: int, width: int, side: int) -> tuple[int, int]:
    """The size whose shorter side is `side`, or the same size if it is smaller already."""
    factor = min(1.0, side / min(height, width))
    return round(height * factor), round(width * factor)


class Crops:
    """Batches of random crops.

    Args:
        config: sizes.
        photos, clips: corpora; assembled by their recipes when not given.
        split: which split to take.

    Raises:
        ConfigError: no picture or clip is large enough.
    """

    def __init__(
        self,
        config: CropConfig,
        photos: Corpus | None = None,
        clips: Corpus | None = None,
        split: str = "train",
    ) -> None:
        self.config = config
        self.pictures: list[np.ndarray] = []
        self.segments: list[np.ndarray] = []
        if config.pictures:
            self.pictures = list(
                self._pictures((assemble("photos") if photos is None else photos).split(split))
            )
        if config.clips:
            self.segments = list(self._segments((assemble("clips") if clips is None else clips).split(split)))
        for wanted, pool in ((config.pictures, self.pictures), (config.clips, self.segments)):
            if wanted and not pool:
                raise ConfigError(
                    f"no picture or clip has {config.largest} pixels a side: choose a smaller crop"
                )

    def _pictures(self, corpus: Corpus) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for item in track(corpus, "reading pictures", len(corpus)):
            for size in {scaled(item.height, item.width, side) for side in self.config.sides}:
                if min(size) >= self.config.largest:
                    yield _bytes(read(corpus.path(item), size=size).pixels)[0]

    def _segments(self, corpus: Corpus) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        config = self.config
        for item in track(corpus, "reading clips", len(corpus)):
            size = scaled(item.height, item.width, config.clip_side)
            if min(size) < config.largest:
                continue
            begin, end = item.start or 0.0, item.end or item.frames / (item.fps or 25.0)
            every = max(config.every, (end - begin) / config.most)
            due = begin
            part = {"size": size, "start": item.start, "end": item.end, "on_truncated": "keep"}
            with open_clip(corpus.path(item), **part) as clip:
                for chunk in clip.chunks(config.segment):
                    if chunk.pixels.shape[2] >= config.frames and chunk.times[0] >= due:
                        due = chunk.times[0] + every
                        yield _bytes(chunk.pixels)

    def batch(self, step: int, seed: int = 0) -> dict[str, Float[Tensor, "b 3 t h w"]]:
        """`pictures [b 3 1 h w]` and `clips [b 3 t h w]` in [0, 1], cropped and mirrored at random."""
        random = np.random.default_rng((seed, step))
        config, side = self.config, self.config.side(step)
        out = {}
        if config.pictures and not (config.alternate and step % 2):
            pictures = [
                self.pictures[i][None] for i in random.integers(len(self.pictures), size=config.pictures)
            ]
            out["pictures"] = torch.stack([_crop(p, (1, side, side), random) for p in pictures])
        if config.clips and not (config.alternate and step % 2 == 0):
            segments = [self.segments[i] for i in random.integers(len(self.segments), size=config.clips)]
            out["clips"] = torch.stack([_crop(s, (config.frames, side, side), random) for s in segments])
        return out


@source("crops", CropConfig)
def crops(_system: nn.Module, config: CropConfig) -> Crops:
    """Crops of the corpora that `smalti data` assembles."""
    return Crops(config)


def _bytes(pixels: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    return (pixels[0] * 255).round().byte().permute(1, 2, 3, 0).contiguous().numpy()


def _crop(
    frames: np.ndarray, size: tuple[int, int, int], random: np.random.Generator
) -> Float[Tensor, "3 t h w"]:
    t, y, x = (
        int(random.integers(have - want + 1)) for have, want in zip(frames.shape[:3], size, strict=True)
    )
    cut = frames[t : t + size[0], y : y + size[1], x : x + size[2]]
    if random.random() < 0.5:
        cut = cut[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(cut)).permute(3, 0, 1, 2).float() / 255
