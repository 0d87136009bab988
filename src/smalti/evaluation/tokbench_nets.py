"""The networks that find and tell faces: a detector, 68 points, and dlib's ResNet.

```
square [1 3 s s] ──► FaceDetector ──► candidates [k 5]      box [n 3 112 112] ──► LandmarkNet ──► [n 68 2]
aligned face [n 3 150 150] ──► FaceNet ──► [n 128]
```
Networks of face-api (MIT), after "Deep Residual Learning" (2015) and "YOLO9000" (2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MEAN = (122.782, 117.001, 104.298)
DETECTOR_MEAN = (117.001, 114.697, 97.404)
ANCHORS = (
    (1.603231, 2.094468),
    (6.041143, 7.080126),
    (2.882459, 3.518061),
    (4.266906, 5.178857),
    (9.041765, 10.66308),
)


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


def same(x: Float[Tensor, "n c h w"], stride: int) -> Tensor:
    """Margins of a 3 × 3 window over even sides: all around, or below and to the right if it halves."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


def _last_pool(x: Float[Tensor, "n c h w"]) -> Tensor:
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
