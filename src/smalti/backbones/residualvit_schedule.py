"""Which frames are encoded whole, and which lean on one of those: as a video codec's I- and P-frames.

```
interval 2     I P P I P P I P …      forced at 4     I P P I I P P I …
source         0 0 0 3 3 3 6 6        source          0 0 0 3 4 4 4 7
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError


def key_frames(
    batch: int,
    frames: int,
    interval: int,
    forced: Bool[Tensor, "b t"] | None = None,
    since: Int[Tensor, "b"] | None = None,
) -> tuple[Bool[Tensor, "b t"], Int[Tensor, "b"]]:
    """Where whole frames stand, and how many frames have followed the last of them at the end.

    Args:
        batch: clips.
        frames: of every clip.
        interval: frames that lean on every whole one.
        forced: frames that must be whole, such as the first after a cut; the interval begins anew.
        since: frames that followed the last whole one before this clip; none before the first clip.

    Raises:
        ConfigError: `forced` is of another shape.
    """
    if forced is not None and tuple(forced.shape) != (batch, frames):
        raise ConfigError(
            f"forced frames must be told for {batch} clips of {frames} frames, not as {tuple(forced.shape)}"
        )
    past = torch.full((batch,), interval) if since is None else since
    columns = []
    for frame in range(frames):
        key = past >= interval
        if forced is not None:
            key = key | forced[:, frame].cpu()
        past = torch.where(key, 0, past + 1)
        columns.append(key)
    return torch.stack(columns, 1), past


def cuts(pixels: Float[Tensor, "b c t h w"], threshold: float) -> Bool[Tensor, "b t"]:
    """Frames that differ from the one before by more than a threshold, in mean absolute difference.

    A simple detector of cuts, to be given as `forced`; 0.15 suits pixels in [0, 1].
    """
    away = pixels.float().diff(dim=2).abs().mean((1, 3, 4)) > threshold
    return F.pad(away, (1, 0))


@dataclass(frozen=True)
class Routes:
    """Where the frames of a batch [b·t] go, as numbers in the order of clips.

    Attributes:
        whole: frames that are encoded whole.
        leaning: the others.
        source: of every frame, the whole one that it leans on or is: a number among those carried over and
            behind them the whole ones of this batch.
        back: of every frame, its number among whole and leaning ones in a row.
    """

    whole: Int[Tensor, "k"]
    leaning: Int[Tensor, "m"]
    source: Int[Tensor, "b t"]
    back: Int[Tensor, "n"]


def routes(key: Bool[Tensor, "b t"], carried: int = 0) -> Routes:
    """The ways of all frames of a batch.

    Args:
        key: where whole frames stand.
        carried: whole frames that were carried over from before, one a clip, or 0.
    """
    flat = key.flatten()
    latest = (flat.cumsum(0) - 1 + carried).view_as(key)
    before = torch.arange(len(key))[:, None].expand_as(key)
    source = torch.where(key.cumsum(1) > 0, latest, before)
    whole, leaning = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
    return Routes(whole, leaning, source, torch.cat([whole, leaning]).argsort())
