"""Embedded colour profiles (ICC) → sRGB, through LittleCMS as Pillow brings it."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MODES = {"RGB", "RGBA", "L", "CMYK"}
UNSEEN = 2  # of 255: a profile that moves colours by no more is sRGB under another name


def to_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB if it carries a profile of another space; with none or a broken one, as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in MODES:
        return image
    transform = _transform(profile, image.mode)
    return image if transform is None else ImageCms.applyTransform(image, transform) or image


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How to get from a profile to sRGB; None where nothing would change or the profile makes no sense."""
    target = "RGBA" if mode == "RGBA" else "RGB"
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            target,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(36, 6, 3)
    probe = Image.fromarray(colours).convert(mode)
    found = np.asarray(ImageCms.applyTransform(probe, transform).convert("RGB")).astype(int)
    moved = np.abs(found - np.asarray(probe.convert("RGB"))).max()
    return transform if moved > UNSEEN else None
