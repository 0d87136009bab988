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
                    f"no picture or clip has {config.crop} pixels a side: choose a smaller crop"
                )

    def _pictures(self, corpus: Corpus) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for item in track(corpus, "reading pictures", len(corpus)):
            for size in {scaled(item.height, item.width, side) for side in self.config.sides}:
                if min(size) >= self.config.crop:
                    yield _bytes(read(corpus.path(item), size=size).pixels)[0]

    def _segments(self, corpus: Corpus) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        config = self.config
        for item in track(corpus, "reading clips", len(corpus)):
            size = scaled(item.height, item.width, config.clip_side)
            if min(size) < config.crop:
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
        config = self.config
        out = {}
        if config.pictures:
            pictures = [
                self.pictures[i][None] for i in random.integers(len(self.pictures), size=config.pictures)
            ]
            out["pictures"] = torch.stack([self._crop(p, 1, random) for p in pictures])
        if config.clips:
            segments = [self.segments[i] for i in random.integers(len(self.segments), size=config.clips)]
            out["clips"] = torch.stack([self._crop(s, config.frames, random) for s in segments])
        return out

    def _crop(self, frames: np.ndarray, count: int, random: np.random.Generator) -> Float[Tensor, "3 t h w"]:
        crop = self.config.crop
        t, y, x = (
            int(random.integers(size - want + 1))
            for size, want in zip(frames.shape[:3], (count, crop, crop), strict=True)
        )
        cut = frames[t : t + count, y : y + crop, x : x + crop]
        if random.random() < 0.5:
            cut = cut[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(cut)).permute(3, 0, 1, 2).float() / 255


@source("crops", CropConfig)
def crops(_system: nn.Module, config: CropConfig) -> Crops:
    """Crops of the corpora that `smalti data` assembles."""
    return Crops(config)


def _bytes(pixels: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    return (pixels[0] * 255).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
