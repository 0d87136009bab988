"""One sample as it comes back from the tokenizer and, at the same bytes, from the classical codecs."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from smalti.errors import UnsupportedError
from smalti.evaluation.codecs import codecs_for
from smalti.evaluation.dataset import Sample
from smalti.evaluation.metrics import psnr
from smalti.evaluation.token_coder import TokenCoder

SIDE = 512


@dataclass(frozen=True)
class Example:
    """A picture for the page.

    Attributes:
        title: who made it.
        caption: bytes and PSNR.
        png: the middle 512 × 512 pixels of the middle frame, lossless.
    """

    title: str
    caption: str
    png: bytes


def examples(sample: Sample, coder: TokenCoder) -> tuple[Example, ...]:
    """The original, the tokenizer at its middle quality, and every codec within as many bytes."""
    setting = coder.settings[len(coder.settings) // 2]
    ours = coder.round_trip(sample.pixels, setting, sample.fps)
    shown = [Example("Original", sample.name, _png(sample.pixels))]
    shown.append(_example(sample, f"{coder.name}, quality {setting}", ours.bytes, ours.pixels))
    for codec in codecs_for(sample.pixels.shape[2]):
        try:
            used, coded = codec.within(sample.pixels, ours.bytes, sample.fps)
        except UnsupportedError:
            continue
        shown.append(_example(sample, f"{codec.name} at {used}", coded.bytes, coded.pixels))
    return tuple(shown)


def _example(sample: Sample, title: str, size: int, pixels: Tensor) -> Example:
    decibels = psnr(sample.pixels, pixels).mean().item()
    return Example(title, f"{size:,} bytes · {decibels:.2f} dB", _png(pixels))


def _png(pixels: Float[Tensor, "1 3 t h w"]) -> bytes:
    frame = pixels[0, :, pixels.shape[2] // 2].permute(1, 2, 0)
    top, left = (max(side - SIDE, 0) // 2 for side in frame.shape[:2])
    crop = frame[top : top + SIDE, left : left + SIDE]
    file = io.BytesIO()
    Image.fromarray(crop.mul(255).round().to(torch.uint8).numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()
