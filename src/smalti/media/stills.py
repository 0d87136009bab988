"""One frame → the bytes of a PNG, JPEG, WebP, AVIF or TIFF file."""

from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image

from smalti.errors import ConfigError, nearest

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
LOSSY_QUALITY = {"JPEG": 90, "WEBP": 90, "AVIF": 80}
DEEP = ("PNG", "TIFF")


def still_format(suffix: str) -> str:
    """The format that a suffix stands for.

    Raises:
        ConfigError: a suffix that stands for none.
    """
    if suffix.lower() not in FORMATS:
        raise ConfigError(f"no picture format has the suffix {suffix!r}: {nearest(suffix.lower(), FORMATS)}")
    return FORMATS[suffix.lower()]


def encode_still(
    pixels: np.ndarray,
    kind: str,
    quality: int | None = None,
    lossless: bool = False,
    speed: int | None = None,
) -> bytes:
    """A picture file in memory.

    Args:
        pixels: `[h, w, 3]`, uint8, or uint16 for PNG and TIFF.
        kind: one of the values of `FORMATS`.
        quality: 0 to 100 for JPEG, WebP and AVIF; PNG and TIFF are always lossless.
        lossless: for WebP.
        speed: effort against time: 0 to 10 for AVIF, 0 to 6 for WebP; the library's own when not given.

    Raises:
        ConfigError: options that the format does not have.
    """
    if quality is not None and kind not in LOSSY_QUALITY:
        raise ConfigError(f"{kind} is lossless and has no quality")
    if quality is not None and not 0 <= quality <= 100:
        raise ConfigError(f"quality={quality}: choose 0 to 100")
    if lossless and kind in ("JPEG", "AVIF"):
        raise ConfigError(f"{kind} changes colours even at its best: choose PNG, WebP or TIFF for lossless")
    if pixels.dtype == np.uint16:
        return _encode_deep(pixels, kind)
    options: dict[str, object] = {}
    if kind in LOSSY_QUALITY:
        options["quality"] = LOSSY_QUALITY[kind] if quality is None else quality
    if kind == "WEBP":
        options |= {"lossless": lossless, "exact": True} | ({} if speed is None else {"method": speed})
    if kind == "AVIF":
        options |= {} if speed is None else {"speed": speed}
    if kind == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _encode_deep(pixels: np.ndarray, kind: str) -> bytes:
    """Sixteen bits a channel, which Pillow cannot write, through FFmpeg."""
    if kind not in DEEP:
        raise ConfigError(f"{kind} holds eight bits a channel: sixteen need {' or '.join(DEEP)}")
    context = av.CodecContext.create(kind.lower(), "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt = "rgb48be" if kind == "PNG" else "rgb48le"
    context.time_base = 1
    frame = av.VideoFrame.from_ndarray(pixels, "rgb48le").reformat(format=context.pix_fmt)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
