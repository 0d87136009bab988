"""Pixels → files: `write_image`, `write_clip`, `ClipWriter`.

```
pixels [1 3 t h w] ── rounded to 8 or 16 bits ── encoder by suffix ── temporary name ── sync ── rename
```
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, MediaError, nearest
from smalti.media.arrays import Pixels, as_pixels
from smalti.media.atomic import whole_file, whole_folder
from smalti.media.encoders import (
    CONTAINERS,
    Encoder,
    GifEncoder,
    SequenceEncoder,
    VideoEncoder,
    WebpEncoder,
)
from smalti.media.info import Number
from smalti.media.progress import Report, track
from smalti.media.reader import Chunk, StrPath
from smalti.media.stills import FORMATS, encode_still, still_format

NUMBERED = re.compile(r"%0?\d*d")
ANIMATIONS = (".gif", ".webp")


def write_image(
    path: StrPath,
    pixels: Pixels,
    *,
    quality: int | None = None,
    lossless: bool = False,
    bits: Literal[8, 16] = 8,
) -> None:
    """Write one picture; the suffix names the format (PNG, JPEG, WebP, AVIF, TIFF).

    Args:
        path: where; written whole or not at all.
        pixels: `[1, 3, 1, h, w]`, RGB in [0, 1], or whatever `as_pixels` takes.
        quality: 0 to 100 for JPEG, WebP and AVIF.
        lossless: for WebP; PNG and TIFF always are.
        bits: 16 for PNG and TIFF.

    Raises:
        ConfigError: an unknown suffix, options the format does not have, a folder that does not exist.
        MediaError: not one picture, or pixels that mean nothing.
    """
    path = Path(path)
    kind = still_format(path.suffix)
    frames = _to_frames(as_pixels(pixels), bits)
    if len(frames) != 1:
        raise MediaError(f"{path}: a picture has one frame, not {len(frames)}: use write_clip")
    data = encode_still(frames[0], kind, quality, lossless)
    with whole_file(path) as file:
        file.write(data)


class ClipWriter:
    """Writes a clip as its frames come, in bounded memory.

    ```python
    with ClipWriter("out.mp4", fps=25) as clip:
        clip.write(pixels)
    ```
    The file appears when the block ends without an error; otherwise nothing is left. The path's suffix
    chooses: `.mp4 .m4v .mov .mkv` (H.264), `.webm` (VP9), `.gif`, `.webp` (animations); a pattern such as
    `out/%04d.png` or a path without suffix (a new folder of PNG files) writes a picture a frame.

    Args:
        path: where.
        fps: frames a second; when not given, every `write` brings its times.
        codec: `h264`, `hevc`, `vp9` or `av1`, for videos.
        quality: constant rate factor of videos (0 is best), or 0 to 100 of WebP and picture sequences.
        lossless: for WebP animations and sequences.
        audio_from: a file whose first sound track is copied.

    Raises:
        ConfigError: an unknown suffix or codec, options that do not fit it, a folder that does not exist.
        MediaError: pixels that mean nothing, frames of another size, times that run backwards.
        UnsupportedError: a container that cannot hold the codec or the sound.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        fps: Number | None = None,
        codec: str | None = None,
        quality: int | None = None,
        lossless: bool = False,
        audio_from: StrPath | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps={fps}: must be positive")
        self._path = Path(path)
        self._rate = None if fps is None else Fraction(fps).limit_denominator(1001) or Fraction(fps)
        self._options = {"codec": codec, "quality": quality, "lossless": lossless, "audio_from": audio_from}
        self._cleanup = contextlib.ExitStack()
        self._pending: tuple[np.ndarray, float] | None = None
        self._gaps: tuple[float, ...] = ()  # seconds between the last three frames
        self._usual = 1 / 25 if fps is None else 1 / fps
        self._count = 0

    def __enter__(self) -> ClipWriter:
        with contextlib.ExitStack() as stack:
            self._encoder = self._open(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cleanup:
            try:
                if error is None:
                    self._finish()
            except BaseException:
                self._encoder.abandon()
                raise
            if error is not None:
                self._encoder.abandon()
                raise error

    def write(self, pixels: Pixels | Chunk, times: Sequence[Number] | None = None) -> None:
        """Append frames `[1, 3, t, h, w]`.

        `times` are their seconds, for a writer without `fps`; a `Chunk` brings its own.
        """
        if isinstance(pixels, Chunk):
            pixels, times = pixels.pixels, times or pixels.times
        frames = _to_frames(as_pixels(pixels), 8)
        if self._rate is not None:
            times = [float((self._count + i) / self._rate) for i in range(len(frames))]
        elif times is None:
            raise ConfigError(f"{self._path}: give fps=, or times with every write")
        if len(times) != len(frames):
            raise MediaError(f"{self._path}: {len(frames)} frames came with {len(times)} times")
        for frame, seconds in zip(frames, times, strict=True):
            self._add(frame, float(seconds))

    def _add(self, frame: np.ndarray, seconds: float) -> None:
        if self._pending is not None:
            before, began = self._pending
            if frame.shape != before.shape:
                raise MediaError(
                    f"{self._path}: frame {self._count} is {frame.shape[1]}x{frame.shape[0]}, "
                    f"those before are {before.shape[1]}x{before.shape[0]}"
                )
            if seconds < began:
                raise MediaError(
                    f"{self._path}: frame {self._count} at {seconds} seconds comes before {began}"
                )
            self._gaps = (*self._gaps[-1:], seconds - began)
            self._encoder.add(before, began, seconds - began)
        self._pending = (frame, seconds)
        self._count += 1

    def _finish(self) -> None:
        if self._pending is None:
            raise MediaError(f"{self._path}: no frame was written")
        stay = min(self._gaps, default=self._usual) or self._usual  # one long gap does not make the last long
        self._encoder.add(*self._pending, stay)
        self._encoder.close()

    def _open(self, stack: contextlib.ExitStack) -> Encoder:
        """The encoder that the path asks for, writing under a temporary name until the stack closes."""
        suffix = self._path.suffix.lower()
        quality, lossless = self._options["quality"], bool(self._options["lossless"])
        codec, audio_from = self._options["codec"], self._options["audio_from"]
        if suffix not in CONTAINERS and (codec is not None or audio_from is not None):
            raise ConfigError(f"{self._path}: codec= and audio_from= are for {', '.join(CONTAINERS)}")
        if suffix in CONTAINERS:
            if lossless:
                raise ConfigError(
                    f"{self._path}: videos are written lossy: choose .webp or pictures for lossless"
                )
            return VideoEncoder(
                stack.enter_context(whole_file(self._path)),
                suffix,
                codec=codec,
                quality=quality,
                rate=self._rate,
                audio_from=None if audio_from is None else Path(audio_from),
            )
        if NUMBERED.search(self._path.name):
            kind = still_format(suffix)
            return SequenceEncoder(self._path.parent, self._path.name, kind, quality, lossless)
        if suffix == ".gif":
            return GifEncoder(stack.enter_context(whole_file(self._path)))
        if suffix == ".webp":
            return WebpEncoder(stack.enter_context(whole_file(self._path)), quality, lossless)
        if suffix:
            known = (*CONTAINERS, *ANIMATIONS)
            raise ConfigError(f"no clip format has the suffix {suffix!r}: {nearest(suffix, known)}")
        folder = stack.enter_context(whole_folder(self._path))
        return SequenceEncoder(folder, "%06d.png", FORMATS[".png"], quality, lossless)


def write_clip(
    path: StrPath,
    pixels: Pixels | Iterable[Chunk] | Iterable[Tensor],
    *,
    fps: Number | None = None,
    times: Sequence[Number] | None = None,
    codec: str | None = None,
    quality: int | None = None,
    lossless: bool = False,
    audio_from: StrPath | None = None,
    progress: bool | Report | None = None,
) -> None:
    """Write a clip from a tensor or from chunks as they come. The rest is as in `ClipWriter`.

    Args:
        path: where; the suffix chooses the format.
        pixels: all frames `[1, 3, t, h, w]`, or an iterable of tensors or of `Chunk`, whose times are kept
            unless fps is given.
        fps: frames a second.
        times: seconds of every frame, for a tensor.
        codec: `h264`, `hevc`, `vp9` or `av1`.
        quality: constant rate factor of videos (0 is best), or 0 to 100 of WebP and picture sequences.
        lossless: for WebP animations and sequences.
        audio_from: a file whose first sound track is copied.
        progress: see `track`.
    """
    if fps is not None and times is not None:
        raise ConfigError("give fps= (steady) or times= (of every frame), not both")
    whole = isinstance(pixels, (Tensor, np.ndarray))
    if times is not None and not whole:
        raise ConfigError("times= goes with one tensor; chunks bring their own times")
    options = {"codec": codec, "quality": quality, "lossless": lossless, "audio_from": audio_from}
    with ClipWriter(path, fps=fps, **options) as clip:
        if whole:
            clip.write(pixels, times)
        else:
            for chunk in track(pixels, f"writing {os.path.basename(path)}", None, progress):
                clip.write(chunk)


def _to_frames(pixels: Float[Tensor, "b 3 t h w"], bits: int) -> np.ndarray:
    """`[t, h, w, 3]` rounded to unsigned integers."""
    if bits not in (8, 16):
        raise ConfigError(f"bits={bits}: choose 8 or 16")
    if pixels.shape[0] != 1:
        raise MediaError(f"one picture or clip can be written at a time, not a batch of {pixels.shape[0]}")
    scaled = pixels[0].permute(1, 2, 3, 0).mul(2**bits - 1).round()
    kind = np.uint8 if bits == 8 else np.uint16
    return np.ascontiguousarray(scaled.to("cpu", torch.float32).numpy().astype(kind))
