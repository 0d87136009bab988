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
from torch import Tensor

from smalti.evaluation.tokbench_annotations import Box, Face, Points, face
from smalti.evaluation.tokbench_crops import crop
from smalti.evaluation.tokbench_nets import FaceDetector, FaceNet, LandmarkNet
from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.published import Published, Weights
from smalti.training.corpora.recipe import Source
from smalti.training.corpora.unpack import Package

# Eyes, nose, corners of the mouth on 112 × 112 pixels, as ArcFace aligns faces.
ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
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
