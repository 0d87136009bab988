"""Faces: where they are, where their key points are, and whose they are.

```
picture [3 h w] ──► FaceDetector ──► boxes ──► LandmarkNet ──► 68 points ──► eyes, nose, corners of the mouth
aligned face [3 150 150] ──► FaceNet ──► 128 numbers
```

The networks are those of face-api (MIT); `FaceNet` is the ResNet of dlib. TokBench embeds with ArcFace.
Embeddings of dlib's network were trained for distances and are not centred: **two different people have a
cosine far above 0**, so read F-Sim beside the cosine between other people, which every report prints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smalti.evaluation.tokbench_annotations import Box, Face, Points, face
from smalti.evaluation.tokbench_crops import crop
from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.published import Published, Weights
from smalti.training.corpora.recipe import Source
from smalti.training.corpora.unpack import Package

# Eyes, nose, corners of the mouth on 112 × 112 pixels, as ArcFace aligns faces.
ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
MEAN = (122.782, 117.001, 104.298)
DETECTOR_MEAN = (117.001, 114.697, 97.404)
ANCHORS = (
    (1.603231, 2.094468),
    (6.041143, 7.080126),
    (2.882459, 3.518061),
    (4.266906, 5.178857),
    (9.041765, 10.66308),
)
SIDES = (416, 832)
LIKELY, OVERLAP = 0.5, 0.4
DISAGREEMENT = 0.08

FACE_API = Source(
    "@vladmandic/face-api",
    "1.7.15",
    "npm",
    "vladmandic-face-api-1.7.15.tgz",
    "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    "MIT",
    take=(),
)


@runtime_checkable
class Embedder(Protocol):
    """Says whose face it is: whatever stands in for ArcFace.

    Attributes:
        side: pixels a side of an aligned face.
        template: where the five key points lie in it, (x, y) in pixels.
    """

    side: int
    template: Float[Tensor, "5 2"]

    def __call__(self, faces: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n d"]:
        """Embeddings of aligned faces, RGB in [0, 1]."""
        ...


class Embedding:
    """`FaceNet` on faces aligned as dlib aligns them.

    Raises:
        UnsupportedError: the package cannot be fetched.
        IntegrityError: the package is not the one that was published.
    """

    side = 150

    def __init__(self) -> None:
        self.net = FaceNet()
        self.net.load_state_dict(_published("face_recognition").load())
        self.net.eval().requires_grad_(False)
        x, y = (torch.tensor(ARCFACE) / 112).unbind(1)
        # dlib's chips hold the eyes 0.350 of a side apart and 0.314 below the top; ArcFace's 0.315 and 0.461.
        wider = 0.3503 / 0.3146
        self.template = torch.stack([0.5 + (x - 0.5) * wider, 0.3141 + (y - 0.4607) * wider], 1) * self.side

    @torch.inference_mode()
    def __call__(self, faces: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n 128"]:
        """Embeddings of aligned faces, RGB in [0, 1]."""
        return torch.cat([self.net(some) for some in faces.split(16)])


class FaceNet(nn.Module):
    """dlib's face ResNet, 5.6 M parameters; its scale layers are folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = nn.Conv2d(3, 32, 7, stride=2)
        self.blocks = nn.ModuleDict()
        before = 32
        for width, count in ((32, 3), (64, 3), (128, 2), (256, 2)):
            if width > 32:
                self.blocks[f"conv{width}_down"] = Residual(before, width, down=True)
            for place in range(1, count + 1):
                self.blocks[f"conv{width}_{place}"] = Residual(width, width)
            before = width
        self.blocks["conv256_down_out"] = Residual(256, 256, down=True)
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, faces: Float[Tensor, "n 3 150 150"]) -> Float[Tensor, "n 128"]:
        """Embeddings of aligned faces, RGB in [0, 1]."""
        x = (faces * 255 - faces.new_tensor(MEAN).view(3, 1, 1)) / 256
        x = F.max_pool2d(self.conv32_down(x).relu(), 3, stride=2)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions beside the input, or beside its halves."""

    def __init__(self, width: int, out: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(width, out, 3, 2, 0) if down else nn.Conv2d(width, out, 3, 1, 1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Zeros fill what the two sides lack: channels of the input, a last row and column of the rest."""
        y = self.conv2(self.conv1(x).relu())
        if self.down:
            x = F.avg_pool2d(x, 2)
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return (x + y).relu()


class Separable(nn.Module):
    """A depthwise and a pointwise convolution with the margins of TensorFlow's "same"."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(width, width, 3, stride, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, out, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Features at the stride."""
        return self.pointwise(self.depthwise(same(x, self.stride)))


class FaceDetector(nn.Module):
    """face-api's tiny detector: 0.19 M parameters, five anchors a cell of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3)
        for place in range(1, 6):
            setattr(self, f"conv{place}", Separable(8 * 2**place, 16 * 2**place))
        self.conv8 = nn.Conv2d(512, 25, 1)

    def forward(self, square: Float[Tensor, "1 3 side side"]) -> Float[Tensor, "k 5"]:
        """Left, top, right, bottom as shares of the side, and the logit of every candidate."""
        x = (square * 255 - square.new_tensor(DETECTOR_MEAN).view(3, 1, 1)) / 255
        x = F.max_pool2d(F.leaky_relu(self.conv0(x), 0.1), 2, ceil_mode=True)
        for place in range(1, 6):
            x = F.leaky_relu(getattr(self, f"conv{place}")(x), 0.1)
            x = F.max_pool2d(x, 2, ceil_mode=True) if place < 5 else _last_pool(x)
        found = self.conv8(x)[0].unflatten(0, (5, 5))  # anchors, x y w h score
        cells = found.shape[-1]
        steps = torch.arange(cells)
        x_centre = (found[:, 0].sigmoid() + steps) / cells
        y_centre = (found[:, 1].sigmoid() + steps[:, None]) / cells
        anchors = torch.tensor(ANCHORS)[..., None, None]
        wide, high = (found[:, 2:4].exp() * anchors / cells / 2).unbind(1)
        edges = (x_centre - wide, y_centre - high, x_centre + wide, y_centre + high, found[:, 4])
        return torch.stack(edges, -1).flatten(0, 2)


class LandmarkNet(nn.Module):
    """face-api's net of 68 points: 0.35 M parameters in four dense blocks."""

    def __init__(self) -> None:
        super().__init__()
        for place, (width, out) in enumerate(((3, 32), (32, 64), (64, 128), (128, 256))):
            setattr(self, f"dense{place}", DenseBlock(width, out, first=not place))
        self.fc = nn.Linear(256, 136)

    def forward(self, square: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n 68 2"]:
        """(x, y) of every point as shares of the side."""
        x = (square * 255 - square.new_tensor(MEAN).view(3, 1, 1)) / 255
        for place in range(4):
            x = getattr(self, f"dense{place}")(x)
        return self.fc(x.mean((2, 3))).unflatten(1, (68, 2))


class DenseBlock(nn.Module):
    """Halves, then adds up what three more convolutions make of it."""

    def __init__(self, width: int, out: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv0 = nn.Conv2d(width, out, 3, stride=2) if first else Separable(width, out, 2)
        self.conv1, self.conv2, self.conv3 = (Separable(out, out) for _ in range(3))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Features of half the side."""
        total = self.conv0(same(x, 2) if self.first else x).relu()
        step = total
        for conv in (self.conv1, self.conv2, self.conv3):
            total = total + conv(step)
            step = total.relu()
        return step


class FaceFinder:
    """Faces with their five key points.

    Raises:
        UnsupportedError, IntegrityError: as `Embedding`.
    """

    def __init__(self) -> None:
        self.detector, self.landmarks = FaceDetector(), LandmarkNet()
        self.detector.load_state_dict(_published("tiny_face_detector").load())
        self.landmarks.load_state_dict(_published("face_landmark_68").load())
        for net in (self.detector, self.landmarks):
            net.eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, picture: Float[Tensor, "3 h w"]) -> list[Face]:
        """The faces whose key points are the same in the mirrored picture, within 8 % of the box."""
        height, width = picture.shape[1:]
        found = []
        for box in self._boxes(picture):
            cut = crop(picture, box)
            points, mirrored = self._points(cut), self._points(cut.flip(2))
            mirrored[:, 0] = cut.shape[2] - mirrored[:, 0]
            mirrored = mirrored[[1, 0, 2, 4, 3]]
            apart = (points - mirrored).norm(dim=1).max().item()
            if apart > DISAGREEMENT * max(cut.shape[1:]):
                continue
            middle = (points + mirrored) / 2 + torch.tensor([int(max(box[0], 0)), int(max(box[1], 0))])
            named: Points = tuple((float(x), float(y)) for x, y in middle.tolist())
            found.append(face(named, box, height, width))
        return found

    def _boxes(self, picture: Float[Tensor, "3 h w"]) -> list[Box]:
        height, width = picture.shape[1:]
        side = max(height, width)
        square = F.pad(picture, (0, side - width, 0, side - height))[None]
        found = torch.cat(
            [
                self.detector(F.interpolate(square, (size, size), mode="bilinear", antialias=True))
                for size in SIDES
            ]
        )
        found = found[found[:, 4].sigmoid() > LIKELY]
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = torch.minimum(found[:, :4].clamp(min=0) * side, limits)
        kept = []
        for place in found[:, 4].argsort(descending=True).tolist():
            sides = boxes[place, 2:] - boxes[place, :2]
            if (sides > 1).all() and all(_overlap(boxes[place], boxes[k]) <= OVERLAP for k in kept):
                kept.append(place)
        return [tuple(boxes[place].tolist()) for place in kept]

    def _points(self, cut: Float[Tensor, "3 h w"]) -> Float[Tensor, "5 2"]:
        height, width = cut.shape[1:]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        square = F.pad(cut, (left, side - width - left, top, side - height - top))[None]
        shares = self.landmarks(F.interpolate(square, (112, 112), mode="bilinear", antialias=True))[0]
        points = shares * side - torch.tensor([left, top])
        eyes = (points[36:42].mean(0), points[42:48].mean(0))
        return torch.stack([*eyes, points[30], points[48], points[54]])


def same(x: Float[Tensor, "n c h w"], stride: int) -> Tensor:
    """Margins of a 3 × 3 window over even sides: all around, or below and to the right if it halves."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


def _last_pool(x: Float[Tensor, "n c h w"]) -> Tensor:
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)


def _overlap(one: Float[Tensor, "4"], other: Float[Tensor, "4"]) -> float:
    """Area of both over area of either."""
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return (sides.prod() / (areas[0] + areas[1] - sides.prod())).item()


@dataclass(frozen=True)
class PublishedShards(Published):
    """Weights as TensorFlow.js keeps them: bytes in the order of a manifest, some of them 8-bit steps."""

    def _read(self) -> Weights:
        package = _package()
        manifest = json.loads(package.read(self.inner.replace(".bin", "-weights_manifest.json")))
        content = package.read(self.inner)
        weights, at = {}, 0
        for entry in manifest[0]["weights"]:
            steps = entry.get("quantization")
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(content, np.uint8 if steps else np.float32, count, at)
            at += values.nbytes
            values = values.astype(np.float32)
            if steps:
                values = values * np.float32(steps["scale"]) + np.float32(steps["min"])
            weights[entry["name"]] = torch.from_numpy(values.copy()).view(entry["shape"])
        return weights


def named(found: Weights) -> Weights:
    """TensorFlow's names and axes to ours; scales after convolutions are folded into them."""
    weights: Weights = {}
    for key, value in found.items():
        path, _, last = key.rpartition("/")
        module = path.replace("/", ".")
        match last:
            case "depthwise_filter":
                weights[f"{module}.depthwise.weight"] = value.permute(2, 3, 0, 1)
            case "pointwise_filter":
                weights[f"{module}.pointwise.weight"] = value.permute(3, 2, 0, 1)
            case "filters":
                weights[f"{module}.weight"] = value.permute(3, 2, 0, 1)
            case "bias" if f"{path}/pointwise_filter" in found:
                weights[f"{module}.pointwise.bias"] = value
            case "bias":
                weights[f"{module}.bias"] = value
            case "fc" | "weights" if value.ndim == 2:
                weights["fc.weight"] = value.T
    return _folded(weights, found)


def _folded(weights: Weights, found: Weights) -> Weights:
    scaled = [key.removesuffix("/scale/weights") for key in found if key.endswith("/scale/weights")]
    for path in scaled:
        scale, shift = found[f"{path}/scale/weights"], found[f"{path}/scale/biases"]
        module = path.replace("/", ".")
        name = module if module == "conv32_down" else f"blocks.{module}"
        weights[f"{name}.weight"] = weights.pop(f"{module}.conv.weight") * scale[:, None, None, None]
        weights[f"{name}.bias"] = weights.pop(f"{module}.conv.bias") * scale + shift
    return weights


@cache
def _package() -> Package:
    return Package(fetch(FACE_API))


def _published(name: str) -> PublishedShards:
    return PublishedShards(f"face-api-{name}", FACE_API, f"package/model/{name}_model.bin", named)
