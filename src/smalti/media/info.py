"""What a file promises, and how much of it may be allocated: `Info` and `Budget`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smalti.errors import BudgetError

Number = int | float  # `float` alone would refuse fps=25 wherever hints are checked
FLOAT_BYTES = 3 * 4  # an RGB pixel in float32


@dataclass(frozen=True)
class Info:
    """What the header of a picture or clip says; nothing is decoded beyond the first frame.

    Attributes:
        path: the file.
        kind: `image` for one picture, `clip` for anything that has times (videos, animated GIF, WebP, …).
        width, height: pixels of an upright frame, after rotation.
        frames: frames that the header promises; None where the format does not say.
        fps: average frames a second as the header says it (Matroska and WebM give a nominal rate, which an
            uneven clip does not keep); None for a picture or an unknown rate.
        duration: seconds; None where unknown, 0 for a picture.
        time_base: seconds of one tick of the file's clock; None for a picture.
        codec: name of the compression, as FFmpeg or Pillow spell it.
        bit_depth: bits a channel.
        has_audio, has_alpha: a sound track, transparency.
        rotation: degrees anticlockwise that were applied to bring the frame upright.
        colour_range: `full` or `limited`.
    """

    path: Path
    kind: Literal["image", "clip"]
    width: int
    height: int
    frames: int | None
    fps: Number | None
    duration: Number | None
    time_base: Number | None
    codec: str
    bit_depth: int
    has_audio: bool = False
    has_alpha: bool = False
    rotation: int = 0
    colour_range: Literal["full", "limited"] = "full"


@dataclass(frozen=True)
class Budget:
    """Limits that are checked on the header, before any pixel is allocated.

    Attributes:
        pixels: of one frame (default 2^28: a picture of 16384 × 16384).
        frames: of one file (default 864,000: ten hours at 24 frames a second).
        seconds: of one file (default a day).
        bytes: of float32 pixels that one `read` or one chunk holds at once (default 8 GiB).
    """

    pixels: int = 2**28
    frames: int = 864_000
    seconds: Number = 86_400
    bytes: int = 2**33

    def check_frame(self, path: Path, height: int, width: int) -> None:
        """Refuse a frame that is too large.

        Raises:
            BudgetError: more pixels than allowed.
        """
        if height * width > self.pixels:
            raise BudgetError(
                f"{path}: {width}x{height} is {height * width} pixels a frame, more than the {self.pixels} "
                "allowed: raise Budget(pixels=...) if you trust the file"
            )

    def check_length(self, path: Path, frames: int | None, seconds: Number | None) -> None:
        """Refuse a file that is too long.

        Raises:
            BudgetError: more frames or seconds than allowed.
        """
        if frames is not None and frames > self.frames:
            raise BudgetError(
                f"{path}: promises {frames} frames or more, {self.frames} are allowed: "
                "raise Budget(frames=...) if you trust the file"
            )
        if seconds is not None and seconds > self.seconds:
            raise BudgetError(
                f"{path}: promises {seconds:.0f} seconds, {self.seconds:.0f} are allowed: "
                "raise Budget(seconds=...) if you trust the file"
            )

    def check_bytes(self, path: Path, frames: int, height: int, width: int) -> None:
        """Refuse to hold that many decoded frames at once.

        Raises:
            BudgetError: more bytes than allowed.
        """
        needed = frames * height * width * FLOAT_BYTES
        if needed > self.bytes:
            raise BudgetError(
                f"{path}: {frames} frames of {width}x{height} need {needed / 2**30:.1f} GiB, "
                f"{self.bytes / 2**30:.1f} are allowed: give size=, frames= or fps=, stream with open_clip, "
                "or raise Budget(bytes=...)"
            )


DEFAULT = Budget()
