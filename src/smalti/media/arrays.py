"""Arrays of any usual layout → pixels `[b 3 t h w]` in [0, 1].

| given         | channels first | channels last | meaning                        |
|---------------|----------------|---------------|--------------------------------|
| Pillow image  |                | `h w c`       | one picture                    |
| 2 axes        | `h w`          | `h w`         | one grey picture               |
| 3 axes        | `c h w`        | `h w c`       | one picture                    |
| 4 axes        | `b c h w`      | `t h w c`     | pictures; the frames of a clip |
| 5 axes        | `b c t h w`    | `b t h w c`   | clips                          |

An axis of 1 to 4 can hold channels. Where both can, torch tensors have them first, numpy arrays last.
One channel is grey, two are grey and alpha, three are RGB, four are RGB and alpha; alpha goes over white.
Bool and unsigned integers are divided by their white value (1, 255, 65535); floats must lie in [0, 1].
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from smalti.errors import ConfigError, MediaError

Pixels = Tensor | np.ndarray | Image.Image
WHITES = {torch.bool: 1.0, torch.uint8: 255.0, torch.uint16: 65535.0}
CHANNELS = range(1, 5)
FIRST = {3: 0, 4: 1, 5: 1}  # the axis of channels, by number of axes, where they do not come last


def as_pixels(x: Any, *, nan: Literal["error", "zero"] = "error") -> Float[Tensor, "b 3 t h w"]:
    """A torch tensor, numpy array or Pillow image as a batch of RGB clips. See the module's table.

    The result may share memory with `x`.

    Args:
        x: pixels in one of the layouts of the table.
        nan: `error` refuses NaN and infinity; `zero` makes them black.

    Raises:
        MediaError: another type or layout, no pixel, NaN, infinity, a value outside [0, 1], or sixteen-bit
            pixels that hold eight-bit values; the message names the first bad index.
        ConfigError: another word for `nan`.
    """
    if nan not in ("error", "zero"):
        raise ConfigError(f"nan={nan!r}: choose 'error' or 'zero'")
    channels_last_first = not isinstance(x, Tensor)
    given = _tensor(x)
    white = _white(given)
    pixels = _in_range(given, nan) if given.is_floating_point() else given.to(torch.float32) / white
    return _rgb(_arranged(pixels, channels_last_first))


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        given = x.detach()
    elif isinstance(x, np.ndarray):
        if not x.dtype.isnative:
            x = x.astype(x.dtype.newbyteorder("="))
        if x.dtype.kind not in "bufi":
            raise MediaError(f"arrays of {x.dtype} hold no pixels: give uint8, uint16, bool or floats")
        given = torch.from_numpy(np.array(x))
    elif isinstance(x, Image.Image):
        given = _from_pillow(x)
    else:
        raise MediaError(
            f"{type(x).__name__} holds no pixels: give a torch tensor, a numpy array or a Pillow image"
        )
    if given.ndim not in (2, *FIRST):
        raise MediaError(f"pixels have 2 to 5 axes, not {given.ndim} (shape {tuple(given.shape)})")
    if given.numel() == 0:
        raise MediaError(f"pixels are empty: shape {tuple(given.shape)}")
    return given


def _from_pillow(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image).astype(np.uint16))
    if image.mode == "F":
        return torch.from_numpy(np.array(image))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return torch.from_numpy(np.array(image.convert(mode)))


def _white(given: Tensor) -> float:
    """The value of white for this type."""
    if given.is_floating_point():
        return 1.0
    if given.dtype not in WHITES:
        raise MediaError(
            f"{given.dtype} has no agreed white: give uint8 (white 255), uint16 (white 65535) "
            "or floats in [0, 1]"
        )
    if given.dtype == torch.uint16:
        highest = int(given.to(torch.int32).max())
        if 1 < highest <= 255:
            raise MediaError(
                f"uint16 pixels reach only {highest} of 65535: these look like eight-bit values; "
                "convert them to uint8, or divide by their white value"
            )
    return WHITES[given.dtype]


def _in_range(given: Tensor, nan: str) -> Tensor:
    pixels = given.to(torch.float32)
    finite = torch.isfinite(pixels)
    if nan == "zero":
        pixels = torch.where(finite, pixels, 0.0)
    elif not finite.all():
        raise MediaError(f"{_first(pixels, ~finite)}: pixels must be numbers; nan='zero' makes them black")
    outside = (pixels < 0) | (pixels > 1)
    if outside.any():
        raise MediaError(f"{_first(pixels, outside)}: float pixels must lie in [0, 1]")
    return pixels


def _first(pixels: Tensor, bad: Tensor) -> str:
    where = tuple(int(i) for i in bad.nonzero()[0])
    return f"found {pixels[where].item()} at index {list(where)}"


def _arranged(pixels: Tensor, last_is_likelier: bool) -> Float[Tensor, "b c t h w"]:
    """The axes in order, by the module's table."""
    if pixels.ndim == 2:
        return pixels[None, None, None]
    first = pixels.shape[FIRST[pixels.ndim]] in CHANNELS
    last = pixels.shape[-1] in CHANNELS
    if not first and not last:
        raise MediaError(f"no axis of shape {tuple(pixels.shape)} can hold 1 to 4 channels")
    channels_last = last and (last_is_likelier or not first)
    if pixels.ndim == 3:
        return (pixels.permute(2, 0, 1) if channels_last else pixels)[None, :, None]
    if pixels.ndim == 4:
        return pixels.permute(3, 0, 1, 2)[None] if channels_last else pixels[:, :, None]
    return pixels.permute(0, 4, 1, 2, 3) if channels_last else pixels


def _rgb(pixels: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 t h w"]:
    channels = pixels.shape[1]
    if channels in (2, 4):
        colour, alpha = pixels[:, :-1], pixels[:, -1:]
        pixels = colour * alpha + (1 - alpha)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1, -1)
    return pixels.contiguous()
