"""The codecs everybody has, as the floor every tokenizer is shown beside.

```
pixels [1 3 t h w] ──► JPEG · WebP · AVIF · x264 · x265 · SVT-AV1 ──► bytes ──► pixels [1 3 t h w]
```

Bytes are real. A picture's are those of its file; a clip's are those of the elementary stream, without any
container and without the encoder's note about itself, which is the count most favourable to the codec.
Colour is stored at half resolution (4:2:0), as these codecs are used.
"""

from __future__ import annotations

import io
import math
import os
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import av
import numpy as np
import torch
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import Colorspace, Interpolation
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from smalti.errors import ConfigError, UnsupportedError, nearest
from smalti.tokenizers.base import check_pixels

Pixels = Float[Tensor, "1 3 t h w"]
Frames = UInt8[np.ndarray, "t h w 3"]


class Coded(NamedTuple):
    """What a codec made of some pixels.

    Attributes:
        bytes: of the whole file or stream.
        pixels: what it decodes to.
        encode_seconds, decode_seconds: wall time, pixels to bytes and back.
        tokens, index_bits: of tokenizers: how many, and how many bits their packed indices would take.
    """

    bytes: int
    pixels: Pixels
    encode_seconds: float
    decode_seconds: float
    tokens: float = math.nan
    index_bits: float = math.nan


@runtime_checkable
class Backend(Protocol):
    """8-bit frames to files or streams and back."""

    def encode(self, frames: Frames, setting: int, fps: float) -> list[bytes]:
        """One file for all frames, or one a frame."""
        ...

    def decode(self, files: list[bytes]) -> Frames:
        """Every frame, perhaps with a row or column more at the end."""
        ...


@dataclass(frozen=True)
class Codec:
    """One codec and the settings it is measured at.

    Attributes:
        name: as tables and plots print it.
        kind: what it codes: one `picture`, or a `clip`.
        settings: from fewest bytes to most.
        finest, coarsest: the ends of the whole scale of settings.
        how: encoder and options, for the record.
        backend: the work itself.
    """

    name: str
    kind: Literal["picture", "clip"]
    settings: tuple[int, ...]
    coarsest: int
    finest: int
    how: str
    backend: Backend

    def round_trip(self, pixels: Pixels, setting: int, fps: float = 25.0) -> Coded:
        """Encode and decode.

        Raises:
            MediaError: pixels that are no RGB frames in [0, 1].
            UnsupportedError: this installation lacks the encoder, or the encoder refuses the size.
        """
        check_pixels(pixels)
        height, width = pixels.shape[-2:]
        frames = pixels[0].permute(1, 2, 3, 0).mul(255).round().to(torch.uint8).numpy()
        try:
            started = time.perf_counter()
            files = self.backend.encode(frames, setting, fps)
            encoded = time.perf_counter()
            restored = self.backend.decode(files)
            decoded = time.perf_counter()
        except (av.FFmpegError, OSError, KeyError, ValueError) as error:
            raise UnsupportedError(
                f"{self.name} at setting {setting} cannot code {width}x{height} pixels: {error}"
            ) from error
        back = torch.from_numpy(restored[:, :height, :width]).permute(3, 0, 1, 2)[None]
        size = sum(map(len, files))
        return Coded(size, back.to(pixels.dtype) / 255, encoded - started, decoded - encoded)

    def within(self, pixels: Pixels, budget: int, fps: float = 25.0) -> tuple[int, Coded]:
        """The best setting whose bytes stay within `budget`, and its result; the coarsest if none does."""
        direction = 1 if self.finest > self.coarsest else -1
        scale = range(self.coarsest, self.finest + direction, direction)
        low, high = 0, len(scale) - 1
        best = scale[0], self.round_trip(pixels, scale[0], fps)
        while low < high:
            middle = (low + high + 1) // 2
            coded = self.round_trip(pixels, scale[middle], fps)
            if coded.bytes <= budget:
                low, best = middle, (scale[middle], coded)
            else:
                high = middle - 1
        return best


def codec(name: str) -> Codec:
    """One codec by name.

    Raises:
        ConfigError: no such codec.
    """
    if name not in CODECS:
        raise ConfigError(f"no codec {name!r}: {nearest(name, CODECS)}")
    return CODECS[name]


def codecs_for(frames: int) -> list[Codec]:
    """The codecs that a picture (one frame) or a clip (more) is shown beside."""
    kind = "picture" if frames == 1 else "clip"
    return [c for c in CODECS.values() if c.kind == kind]


class _Still:
    """Every frame as a picture file of its own, by one of Pillow's formats."""

    def __init__(self, format: str, **options: Any) -> None:
        self.format, self.options = format, options

    def encode(self, frames: Frames, setting: int, fps: float) -> list[bytes]:
        files = []
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, self.format, quality=setting, **self.options)
            files.append(file.getvalue())
        return files

    def decode(self, files: list[bytes]) -> Frames:
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


@dataclass(frozen=True)
class _Moving:
    """All frames as one elementary stream; where key frames fall is left to the encoder."""

    encoder: str
    stream_format: str
    options: dict[str, str]
    drop: str = ""

    def encode(self, frames: Frames, setting: int, fps: float) -> list[bytes]:
        os.environ.setdefault("SVT_LOG", "1")  # errors only: that library writes to stderr by itself
        _, height, width, _ = frames.shape
        even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rate = Fraction(fps).limit_denominator(1001)
        file = io.BytesIO()
        with av.open(file, "w", format=self.stream_format) as container:
            options = {"crf": str(setting), **self.options}
            stream = cast(av.VideoStream, container.add_stream(self.encoder, rate=rate, options=options))
            stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
            stream.thread_count = 1  # x264 gives other bytes on other numbers of threads
            packets = []
            for index, frame in enumerate(even):
                picture = _to_yuv(av.VideoFrame.from_ndarray(frame, "rgb24"))
                picture.pts, picture.time_base = index, 1 / rate
                packets += stream.encode(picture)
            packets += stream.encode()
            if self.drop:
                dropped = BitStreamFilterContext(f"filter_units=remove_types={self.drop}", stream)
                packets = [kept for packet in packets for kept in dropped.filter(packet)]
            container.mux(packets)
        return [file.getvalue()]

    def decode(self, files: list[bytes]) -> Frames:
        with av.open(io.BytesIO(files[0]), "r", format=self.stream_format) as container:
            return np.stack([_to_rgb(frame).to_ndarray() for frame in container.decode(video=0)])


def _to_yuv(frame: av.VideoFrame) -> av.VideoFrame:
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=Interpolation.BICUBIC
    )


def _to_rgb(frame: av.VideoFrame) -> av.VideoFrame:
    return frame.reformat(
        format="rgb24", src_colorspace=Colorspace.ITU709, interpolation=Interpolation.BICUBIC
    )


X264_NOTE = "6"  # the unit in which x264 writes its own options: 600 bytes that no decoder needs
X265 = "log-level=error:info=0:pools=none:frame-threads=1"  # no note about itself, one thread

_JPEG = _Still("JPEG", optimize=True, subsampling="4:2:0")
_CODECS = (
    Codec("JPEG", "picture", (5, 8, 12, 20, 30, 45, 65, 80), 1, 95, "Pillow, optimised tables", _JPEG),
    Codec(
        "WebP",
        "picture",
        (0, 3, 8, 20, 35, 50, 70, 82),
        0,
        100,
        "Pillow, method 6",
        _Still("WEBP", method=6),
    ),
    Codec(
        "AVIF",
        "picture",
        (1, 10, 20, 30, 40, 50, 60, 72),
        0,
        100,
        "Pillow, speed 6",
        _Still("AVIF", speed=6, subsampling="4:2:0", max_threads=1),
    ),
    Codec("JPEG frames", "clip", (5, 10, 20, 40, 70, 90), 1, 95, "Pillow, each frame by itself", _JPEG),
    Codec(
        "x264",
        "clip",
        (46, 41, 36, 31, 26, 21, 16),
        51,
        1,
        "PyAV, preset medium",
        _Moving("libx264", "h264", {"preset": "medium"}, drop=X264_NOTE),
    ),
    Codec(
        "x265",
        "clip",
        (46, 41, 36, 31, 26, 21, 16),
        51,
        1,
        "PyAV, preset medium",
        _Moving("libx265", "hevc", {"preset": "medium", "x265-params": X265}),
    ),
    Codec(
        "SVT-AV1",
        "clip",
        (62, 55, 47, 39, 31, 23, 15),
        63,
        1,
        "PyAV, preset 7",
        _Moving("libsvtav1", "obu", {"preset": "7", "svtav1-params": "lp=1"}),
    ),
)
CODECS = {codec.name: codec for codec in _CODECS}
