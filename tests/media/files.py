"""Pictures and clips that the tests make."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from smalti import media


def scene(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth picture that moves, `[1, 3, t, h, w]`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    large = torch.nn.functional.interpolate(coarse, size=(height + frames, width + frames), mode="bilinear")
    return torch.stack([large[0, :, i : i + height, i : i + width] for i in range(frames)], 1)[None]


def numbered(frames: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """Frames of one grey each, brighter and brighter: a frame's number can be read from its pixels."""
    greys = torch.arange(frames).float().mul(8).add(16).div(255)
    return greys[None, None, :, None, None].expand(1, 3, frames, height, width).contiguous()


def numbers(pixels: torch.Tensor) -> list[int]:
    """The numbers of frames made by `numbered`."""
    return [round((float(level) * 255 - 16) / 8) for level in pixels.mean(dim=(0, 1, 3, 4))]


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean().clamp_min(1e-12)))


def plain_read(path: Path) -> np.ndarray:
    """`[t, h, w, 3]` as PyAV alone gives it."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    ticks: Sequence[int] | None = None,
    *,
    clock: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    source_format: str = "rgb24",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    colour: dict[str, int] | None = None,
) -> Path:
    """A video of `[h, w, 3]` frames through PyAV alone, with everything an odd file can have."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.time_base = stream.codec_context.time_base = clock
        for name, value in (colour or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, source_format)
            if colour:
                frame = frame.reformat(
                    format=pixel_format,
                    dst_colorspace=colour["colorspace"],
                    dst_color_range=colour["color_range"],
                )
            frame.pts, frame.time_base = (i if ticks is None else ticks[i]), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def eight_bits(pixels: torch.Tensor) -> list[np.ndarray]:
    return list((pixels[0].permute(1, 2, 3, 0) * 255).round().byte().numpy())


def faststart_clip(path: Path, frames: int = 24) -> Path:
    """An mp4 with its index in front."""
    return encode(
        path,
        eight_bits(scene(frames, 48, 64)),
        options={"g": "8", "bf": "2"},
        container_options={"movflags": "faststart"},
    )


def with_sound(path: Path, seconds: float = 1.0) -> Path:
    """An mp4 of 25 frames a second with a tone."""
    rate = 8000
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        for pixels in eight_bits(scene(round(25 * seconds), 48, 64)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(round(rate * seconds)) * 0.3).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def written(path: Path, pixels: torch.Tensor, **options) -> Path:
    media.write_clip(path, pixels, **({"fps": 25} | options))
    return path
