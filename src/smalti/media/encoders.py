"""Frames → the bytes of a clip: videos through FFmpeg, GIF and WebP animations, picture sequences.

Every encoder takes `[h, w, 3]` uint8 frames with the seconds they begin and stay, keeps their number, and
holds no more than its format needs.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import av
import numpy as np
from PIL import Image

from smalti.errors import ConfigError, MediaError, UnsupportedError, nearest
from smalti.media.stills import encode_still

CONTAINERS = {
    ".mp4": ("mp4", "h264"),
    ".m4v": ("mp4", "h264"),
    ".mov": ("mov", "h264"),
    ".mkv": ("matroska", "h264"),
    ".webm": ("webm", "vp9"),
}
CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
OPTIONS: dict[str, dict[str, str]] = {
    "h264": {"crf": "18", "preset": "medium"},
    "hevc": {"crf": "20", "preset": "medium", "x265-params": "log-level=none"},
    "vp9": {"crf": "28", "b": "0", "cpu-used": "4", "row-mt": "1"},
    "av1": {"crf": "28", "preset": "8"},
}
WORST = {"h264": 51, "hevc": 51, "vp9": 63, "av1": 63}
HALVES_CHROMA = {"h264", "hevc"}  # these refuse odd sizes when colours are stored at half size
BT601, BT709, LIMITED = 6, 1, 1
FINE_CLOCK = Fraction(1, 90_000)
FARTHEST = 1 << 40  # ticks between decoding and showing; x265 gives out noise for clips of one or two frames


@runtime_checkable
class Encoder(Protocol):
    """Takes frames in order and finishes the file."""

    def add(self, pixels: np.ndarray, seconds: float, shown: float) -> None:
        """One frame `[h, w, 3]` uint8, when it begins and how long it stays."""
        ...

    def close(self) -> None:
        """Write what is left. The file is complete afterwards."""
        ...

    def abandon(self) -> None:
        """Free what is held; the file will be thrown away."""
        ...


class VideoEncoder:
    """A video in mp4, mov, Matroska or WebM.

    Colours are stored in limited range by BT.709 from 720 rows on, else by BT.601, and tagged so. An odd
    size is kept: H.264 and HEVC then store colours at full size (4:4:4), since 4:2:0 cannot hold it.

    Raises:
        ConfigError: an unknown codec or a quality outside its range.
        UnsupportedError: a container that cannot hold the codec or the sound.
    """

    def __init__(
        self,
        file: BinaryIO,
        suffix: str,
        *,
        codec: str | None,
        quality: int | None,
        rate: Fraction | None,
        audio_from: Path | None,
    ) -> None:
        container, usual = CONTAINERS[suffix]
        self._codec = codec or usual
        if self._codec not in CODECS:
            raise ConfigError(f"no codec {codec!r}: {nearest(self._codec, CODECS)}")
        self._options = dict(OPTIONS[self._codec])
        if quality is not None:
            if not 0 <= quality <= WORST[self._codec]:
                raise ConfigError(f"quality={quality}: {self._codec} takes 0 (best) to {WORST[self._codec]}")
            self._options["crf"] = str(quality)
        self._clock = 1 / rate if rate is not None else FINE_CLOCK
        self._rate = rate
        self._last_tick: int | None = None
        self._durations: dict[int | None, int | None] = {}  # ticks that the frames in the encoder stay
        self._shift = 0.0
        self._stream: av.VideoStream | None = None
        self._output = av.open(file, "w", format=container)
        self._sound = _Sound(audio_from, self._output) if audio_from is not None else None

    def add(self, pixels: np.ndarray, seconds: float, shown: float) -> None:
        """Encode one frame."""
        if self._stream is None:
            self._shift = min(0.0, seconds)
            self._stream = self._start(*pixels.shape[:2])
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format=self._stream.pix_fmt,
            dst_colorspace=self._matrix,
            dst_color_range=LIMITED,
            interpolation="BICUBIC",
            threads=1,
        )
        tick = round((seconds - self._shift) / self._clock)
        if self._last_tick is not None:
            tick = max(
                tick, self._last_tick + 1
            )  # players and encoders need every frame to have its own tick
        self._last_tick = tick
        frame.pts, frame.time_base = tick, self._clock
        self._durations[tick] = max(1, round(shown / self._clock))
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        """Drain the encoder, carry the rest of the sound over, write the index."""
        if self._stream is not None:
            self._mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.carry(None)
        self.abandon()

    def abandon(self) -> None:
        """Close the files."""
        if self._sound is not None:
            self._sound.close()
        self._output.close()

    def _start(self, height: int, width: int) -> av.VideoStream:
        if self._codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # its own switch against chatter on standard error
        odd = (height % 2 or width % 2) and self._codec in HALVES_CHROMA
        self._matrix = BT709 if height >= 720 else BT601
        try:
            stream = self._output.add_stream(
                CODECS[self._codec], rate=self._rate or 25, options=self._options
            )
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuv444p" if odd else "yuv420p"
            stream.time_base = stream.codec_context.time_base = self._clock
            stream.codec_context.colorspace = self._matrix
            stream.codec_context.color_primaries = self._matrix
            stream.codec_context.color_trc = self._matrix
            stream.codec_context.color_range = LIMITED
            self._output.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise UnsupportedError(
                f"{self._codec} at {width}x{height} does not fit into {self._output.format.name}: {error}"
            ) from error
        return stream

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            if packet.dts is not None and abs(packet.pts - packet.dts) > FARTHEST:
                packet.dts = packet.pts
            if self._sound is not None and packet.dts is not None:
                self._sound.carry(float(packet.dts * packet.time_base))
            self._output.mux(packet)


class _Sound:
    """The first sound track of another file, copied packet by packet beside the frames."""

    def __init__(self, path: Path, output: av.container.OutputContainer) -> None:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("rb"))
                self._input = stack.enter_context(av.open(file, metadata_errors="replace"))
            except (av.FFmpegError, OSError, ValueError) as error:
                raise MediaError(f"{path}: no sound can be read from it: {error}") from error
            if not self._input.streams.audio:
                raise MediaError(f"{path}: has no sound to carry over")
            source = self._input.streams.audio[0]
            try:
                self._stream = output.add_stream_from_template(source)
            except (av.FFmpegError, ValueError) as error:
                raise UnsupportedError(
                    f"{output.format.name} cannot hold {source.codec_context.name} sound: choose .mkv or .mp4"
                ) from error
            self.close = stack.pop_all().close
        self._output = output
        self._packets = self._readable(source)
        self._next: av.Packet | None = next(self._packets, None)

    def _readable(self, source: av.AudioStream) -> Iterator[av.Packet]:
        for packet in self._input.demux(source):
            if packet.dts is not None:
                yield packet

    def carry(self, until: float | None) -> None:
        """Copy the packets that begin before `until` seconds; all when None."""
        while self._next is not None and (
            until is None or float(self._next.dts * self._next.time_base) <= until
        ):
            self._next.stream = self._stream
            self._output.mux(self._next)
            self._next = next(self._packets, None)


class GifEncoder:
    """An animated GIF: a palette of 256 colours for every frame, times in hundredths of a second."""

    def __init__(self, file: BinaryIO) -> None:
        self._output = av.open(file, "w", format="gif")
        self._stream: av.VideoStream | None = None

    def add(self, pixels: np.ndarray, seconds: float, shown: float) -> None:
        """Encode one frame."""
        height, width = pixels.shape[:2]
        if self._stream is None:
            self._stream = self._output.add_stream("gif", rate=100)
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "pal8"
            self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, 100)
            self._begin = seconds
            self._tick = -1
        reduced = Image.fromarray(pixels).quantize(256)
        colours = np.zeros((256, 4), np.uint8)
        palette = np.frombuffer(bytes(reduced.getpalette() or []), np.uint8).reshape(-1, 3)
        colours[: len(palette), 1:] = palette
        colours[:, 0] = 255
        frame = av.VideoFrame.from_ndarray((np.asarray(reduced), colours), "pal8")
        self._tick = max(self._tick + 1, round((seconds - self._begin) * 100))
        frame.pts, frame.time_base = self._tick, Fraction(1, 100)
        for packet in self._stream.encode(frame):
            packet.duration = max(2, round(shown * 100))  # shorter ones are taken for "unknown" by players
            self._output.mux(packet)

    def close(self) -> None:
        """Drain the encoder and write the end mark."""
        if self._stream is not None:
            self._output.mux(self._stream.encode(None))
        self.abandon()

    def abandon(self) -> None:
        """Close the file."""
        self._output.close()


class WebpEncoder:
    """An animated WebP in which every frame stands alone, so that none is merged with its neighbour."""

    def __init__(self, file: BinaryIO, quality: int | None, lossless: bool) -> None:
        self._file, self._quality, self._lossless = file, quality, lossless
        self._begun = False

    def add(self, pixels: np.ndarray, seconds: float, shown: float) -> None:
        """Encode one frame."""
        height, width = pixels.shape[:2]
        extent = struct.pack("<II", width - 1, height - 1)
        canvas = extent[0:3] + extent[4:7]
        if not self._begun:
            self._file.write(b"RIFF\0\0\0\0WEBP")
            self._file.write(b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas)
            self._file.write(b"ANIM" + struct.pack("<IIH", 6, 0xFFFFFFFF, 0))
            self._begun = True
        still = encode_still(pixels, "WEBP", self._quality, self._lossless, speed=2)[12:]
        milliseconds = struct.pack("<I", round((seconds + shown) * 1000) - round(seconds * 1000))[:3]
        content = bytes(6) + canvas + milliseconds + b"\x02" + still
        self._file.write(b"ANMF" + struct.pack("<I", len(content)) + content)

    def close(self) -> None:
        """Write the file's length into its header."""
        length = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", length - 8))

    def abandon(self) -> None:
        """Nothing is held."""


class SequenceEncoder:
    """Pictures `name % 0`, `name % 1`, … in a folder."""

    def __init__(self, folder: Path, name: str, kind: str, quality: int | None, lossless: bool) -> None:
        self._folder, self._name, self._kind = folder, name, kind
        self._quality, self._lossless = quality, lossless
        self._count = 0

    def add(self, pixels: np.ndarray, seconds: float, shown: float) -> None:
        """Write one picture."""
        data = encode_still(pixels, self._kind, self._quality, self._lossless)
        (self._folder / (self._name % self._count)).write_bytes(data)
        self._count += 1

    def close(self) -> None:
        """Nothing is held."""

    def abandon(self) -> None:
        """Nothing is held."""
