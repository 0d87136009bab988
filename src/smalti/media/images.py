"""Pictures and animated pictures, through Pillow; those of more than eight bits a channel through FFmpeg.

```
file ── header ── Budget ── decode ── upright (EXIF) ── sRGB (ICC) ── alpha over background ── resize ──► RGB
```
Conversions: grey and 1-bit are repeated to RGB; palettes are looked up; an embedded colour profile is applied
to eight-bit pictures (not to deeper ones, which LittleCMS in Pillow would cut); without one, CMYK and YCbCr
go to RGB by Pillow's plain formulas; 16-bit PNG and TIFF and AVIF of 10 and 12 bits keep their precision.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smalti.errors import MediaError
from smalti.media import deep
from smalti.media.animations import SHORTEST, durations, png_chunks
from smalti.media.frames import WHITE, Colour, Frame, over, steady_rate
from smalti.media.info import Budget, Info
from smalti.media.profiles import to_srgb

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "ICO")
ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 258
TICKS = {"GIF": 0.01}
ANTICLOCKWISE = {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 270, 7: 270, 8: 90}

_inside = 0
_lock = threading.Lock()
_pillow_limit = Image.MAX_IMAGE_PIXELS


@contextlib.contextmanager
def own_limits() -> Iterator[None]:
    """Pillow without its own size limit and warnings: `Budget` has checked the header instead."""
    global _inside, _pillow_limit
    with _lock:
        if _inside == 0:
            _pillow_limit = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = None
        _inside += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                Image.MAX_IMAGE_PIXELS = _pillow_limit


@contextlib.contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Whatever a decoder raises about broken data, as one error that names the file."""
    try:
        with own_limits():
            yield
    except MediaError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, IndexError, …
        raise MediaError(f"{path}: the picture is damaged: {error}", decoded=0, promised=1) from error


class ImageSource:
    """One picture or animation. See `FrameSource`.

    Raises:
        MediaError: a file that Pillow knows and cannot read.
        BudgetError: more pixels, frames or seconds than allowed, by the header alone.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        size: tuple[int, int] | None = None,
        background: Colour = WHITE,
    ) -> None:
        self.fault: MediaError | None = None
        self.frames_corrupt = 0
        self._path, self._size, self._background = path, size, background
        _check_webp(path, budget)
        with _faults(path):
            image = Image.open(path, formats=FORMATS)
        with image:
            width, height = image.size
            budget.check_frame(path, height, width)
            shown = durations(path, image.format or "", budget.frames) or []
            budget.check_length(path, len(shown), sum(shown))
            with _faults(path):
                depth = deep.avif_depth(path) if image.format == "AVIF" else _bit_depth(image)
                count = getattr(image, "n_frames", 1) if image.format != "TIFF" else 1
                orientation = _orientation(path, image)
                self._deep = depth > 8 and image.mode in {"RGB", "RGBA", "RGBX", "LA"}
                if image.format == "AVIF":  # FFmpeg sees no transparency, and a grid as many pictures
                    self._deep &= image.mode == "RGB" and not deep.is_tiled(path)
            self._first = max(0, count - len(shown)) if shown else 0
            self._animated = image.format in {"GIF", "WEBP", "PNG", "AVIF"} and max(count, len(shown)) > 1
            if self._animated and not shown:
                budget.check_length(path, count, None)
                shown = self._decoded_durations(count)
            if not self._animated:
                shown = []
            if (
                orientation in deep.SIDEWAYS and image.format != "TIFF"
            ):  # of a TIFF, Pillow tells the upright size
                width, height = height, width
            self._shown = shown
            self.info = Info(
                path=path,
                kind="clip" if self._animated else "image",
                width=width,
                height=height,
                frames=len(shown) or 1,
                fps=len(shown) / sum(shown) if shown else None,
                duration=sum(shown),
                time_base=TICKS.get(image.format or "", 0.001) if shown else None,
                codec=(image.format or "").lower(),
                bit_depth=depth,
                has_alpha=image.has_transparency_data,
                rotation=ANTICLOCKWISE.get(orientation, 0),
            )
        self._orientation = orientation

    def _decoded_durations(self, count: int) -> list[float]:
        """Seconds that every frame is shown, for formats that only their decoder can walk (AVIF)."""
        with _faults(self._path), Image.open(self._path, formats=FORMATS) as image:
            shown = []
            for index in range(count):
                image.seek(index)
                image.load()
                shown.append(image.info.get("duration", 0) / 1000 or SHORTEST)
        return shown

    def times(self) -> list[float]:
        """Seconds at which every frame begins."""
        return [0.0, *np.cumsum(self._shown)[:-1].tolist()] if self._shown else [0.0]

    def fps(self) -> float | None:
        """Frames a second, if they are shown equally long."""
        return steady_rate([*self.times(), sum(self._shown)], self.info.time_base) if self._shown else None

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[Frame]:
        """The frames at these increasing places, or all."""
        times = self.times()
        asked = set(range(len(times)) if wanted is None else wanted)
        if not asked:
            return
        if self._deep and not self._animated:
            yield Frame(0, 0.0, self._read_deep())
            return
        with _faults(self._path):
            image = Image.open(self._path, formats=FORMATS)
        with image:
            for index in range(max(asked) + 1):
                try:
                    with _faults(self._path):
                        if self._animated:
                            image.seek(self._first + index)
                            image.load()
                        pixels = self._convert(image) if index in asked else None
                except MediaError as error:
                    self.fault = MediaError(
                        f"{error} (after {index} of {len(times)} frames)", decoded=index, promised=len(times)
                    )
                    return
                if pixels is not None:
                    yield Frame(index, times[index], deep.channels_first(pixels))

    def _convert(self, image: Image.Image) -> np.ndarray:
        """One Pillow image as upright RGB of the size wanted."""
        if image.format == "JPEG" and self._size is not None:
            height, width = self._size if self._orientation not in deep.SIDEWAYS else self._size[::-1]
            image.draft("RGB", (width, height))
        upright = to_srgb(image if self._animated else ImageOps.exif_transpose(image))
        mode = upright.mode
        if mode.startswith("I;16"):
            grey = np.asarray(upright).astype(np.uint16)
            return deep.resize(np.repeat(grey[..., None], 3, axis=2), self._size)
        if mode in {"I", "F"}:
            return deep.resize(_from_wide_grey(self._path, upright), self._size)
        if upright.has_transparency_data or mode in {"La", "RGBa"}:
            rgba = deep.channels_first(np.asarray(upright.convert("RGBA")))
            rgb = Image.fromarray(deep.channels_last(over(rgba, self._background)))
        else:
            rgb = upright.convert("RGB")
        if self._size is not None and rgb.size != self._size[::-1]:
            rgb = rgb.resize(self._size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(rgb)

    def _read_deep(self) -> np.ndarray:
        try:
            if self.info.codec == "avif":
                return deep.read_avif(self._path, self._orientation, self._size, self._background)
            return deep.read(self._path, self.info.codec, self._orientation, self._size, self._background)
        except (av.FFmpegError, StopIteration, IndexError, ValueError) as error:
            raise MediaError(
                f"{self._path}: the picture is damaged: {error}", decoded=0, promised=1
            ) from error


def _check_webp(path: Path, budget: Budget) -> None:
    """The size an extended WebP claims; Pillow would hand the whole file to its decoder to learn it."""
    with path.open("rb") as file:
        head = file.read(30)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 30:
        width, height = (1 + int.from_bytes(head[i : i + 3], "little") for i in (24, 27))
        budget.check_frame(path, height, width)


def _bit_depth(image: Image.Image) -> int:
    """Bits a channel as stored, which Pillow's mode does not always tell."""
    if image.mode in {"I", "F"}:
        return 32
    if image.mode.startswith("I;16"):
        return 16
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS_PER_SAMPLE_TAG, (8,))  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else bits
    if image.format == "PNG" and image.tile and "16" in str(image.tile[0].args):
        return 16
    return 1 if image.mode == "1" else 8


def _orientation(path: Path, image: Image.Image) -> int:
    """The EXIF orientation. Pillow decodes a whole PNG to look for it, so its chunks are looked at first."""
    if image.format == "PNG":
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if all(kind != b"eXIf" for kind, _ in png_chunks(data)):
                return 1
    return image.getexif().get(ORIENTATION_TAG, 1)


def _from_wide_grey(path: Path, image: Image.Image) -> np.ndarray:
    """Grey of 32 bits as sixteen-bit RGB: floats must lie in [0, 1], integers in 0..65535."""
    grey = np.asarray(image)
    white = 1.0 if image.mode == "F" else 65535.0
    if not (grey.min() >= 0 and grey.max() <= white):
        raise MediaError(
            f"{path}: 32-bit grey values run from {grey.min()} to {grey.max()}, expected 0 to {white:g}: "
            "rescale the picture"
        )
    scaled = np.rint(grey.astype(np.float64) * (65535 / white)).astype(np.uint16)
    return np.repeat(scaled[..., None], 3, axis=2)


def is_picture(path: Path) -> bool:
    """Whether the file's first bytes are those of a picture format, whatever its name says."""
    try:
        with own_limits(), Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a known signature with a broken header: ImageSource tells what is wrong
        return True
