"""Motion capture for claims: fifteen recorded human motions as joints in space, seen by cameras.

```
package ──► root and joint rotations a frame ──► forward kinematics ──► joints [f 15 3] in metres, y up
                cameras: window of a motion ──► in the camera's space [b f 15 3], in its picture [b f 15 2]
```
The motions are the reference clips of DeepMimic (Peng et al., 2018), as pybullet ships them.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.recipe import Source
from smalti.training.corpora.unpack import Package

PACKAGE = Source(
    "pybullet",
    "3.2.7",
    "pip",
    "pybullet-3.2.7-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
    "Zlib",
    take=(),
)
# name, parent, numbers of its rotation (quaternion, angle about z, none), place on the parent in metres
SKELETON = (
    ("root", -1, 4, (0.0, 0.0, 0.0)),
    ("chest", 0, 4, (0.0, 0.236, 0.0)),
    ("neck", 1, 4, (0.0, 0.224, 0.0)),
    ("right hip", 0, 4, (0.0, 0.0, 0.085)),
    ("right knee", 3, 1, (0.0, -0.422, 0.0)),
    ("right ankle", 4, 4, (0.0, -0.410, 0.0)),
    ("right shoulder", 1, 4, (-0.024, 0.243, 0.183)),
    ("right elbow", 6, 1, (0.0, -0.275, 0.0)),
    ("left hip", 0, 4, (0.0, 0.0, -0.085)),
    ("left knee", 8, 1, (0.0, -0.422, 0.0)),
    ("left ankle", 9, 4, (0.0, -0.410, 0.0)),
    ("left shoulder", 1, 4, (-0.024, 0.243, -0.183)),
    ("left elbow", 11, 1, (0.0, -0.275, 0.0)),
    ("right wrist", 7, 0, (0.0, -0.259, 0.0)),
    ("left wrist", 12, 0, (0.0, -0.259, 0.0)),
)
JOINTS = len(SKELETON)
DISTANCE, FOCAL = 4.0, 2.0  # metres to the camera; focal length in half widths of the picture


class Motion(NamedTuple):
    """Joints over time.

    Attributes:
        joints: in metres, y up [f 15 3].
        seconds: between two frames.
        wraps: the end goes on at the start.
    """

    joints: Float[Tensor, "f 15 3"]
    seconds: float
    wraps: bool


def recorded() -> dict[str, Motion]:
    """The fifteen motions, by name.

    Raises:
        UnsupportedError: the package cannot be fetched here.
        IntegrityError: it is not the one that was published.
    """
    package = Package(fetch(PACKAGE))
    return {
        PurePosixPath(path).stem.removeprefix("humanoid3d_"): parsed(package.read(path))
        for path in package.find("pybullet_data/data/motions/humanoid3d_*.txt")
    }


def parsed(text: bytes) -> Motion:
    """A motion from its file."""
    content = json.loads(text)
    numbers = torch.tensor(content["Frames"])
    rotations = numbers[:, 4:].split([turns for _, _, turns, _ in SKELETON], 1)
    return Motion(posed(rotations), float(numbers[:-1, 0].mean()), content["Loop"] == "wrap")


def posed(rotations: tuple[Tensor, ...]) -> Float[Tensor, "f 15 3"]:
    """Forward kinematics, with the root at the origin."""
    frames = len(rotations[0])
    turn: list[Tensor] = []
    place: list[Tensor] = []
    for (_, parent, count, offset), own in zip(SKELETON, rotations, strict=True):
        local = torch.eye(3).expand(frames, 3, 3)
        if count == 4:
            local = _of_quaternion(own)
        elif count == 1:
            zero, half = torch.zeros_like(own), own / 2
            local = _of_quaternion(torch.cat([half.cos(), zero, zero, half.sin()], 1))
        if parent < 0:
            turn.append(local)
            place.append(torch.zeros(frames, 3))
        else:
            turn.append(turn[parent] @ local)
            place.append(place[parent] + turn[parent] @ torch.tensor(offset))
    return torch.stack(place, 1)


def swinging(count: int) -> dict[str, Motion]:
    """Made motions, for a quick run: limbs that swing."""
    time = torch.linspace(0, 6.28, 60)[:, None]
    found = {}
    for number in range(count):
        swings = torch.sin((number + 1) * time + torch.arange(JOINTS))
        rotations = tuple(
            torch.cat([torch.ones(60, 1), 0.3 * swings[:, n : n + 1].expand(-1, 3)], 1)
            if turns == 4
            else swings[:, n : n + 1].expand(-1, turns)
            for n, (_, _, turns, _) in enumerate(SKELETON)
        )
        found[f"swing {number}"] = Motion(posed(rotations), 1 / 30, True)
    return found


def cameras(
    motions: list[Motion], count: int, frames: int, generator: torch.Generator, noise: float = 0.005
) -> tuple[Float[Tensor, "b f 15 2"], Float[Tensor, "b f 15 3"]]:
    """Windows of motions at 30 frames a second, at some tempo, from some side: pictures and truth.

    A motion that does not wrap is held at its end. The root is the origin of both; pictures are in half
    widths and have detection noise.
    """
    windows = []
    for _ in range(count):
        motion = motions[int(torch.randint(len(motions), (), generator=generator))]
        start, tempo = torch.rand(2, generator=generator).tolist()
        length = len(motion.joints)
        time = start * length + torch.arange(frames) * (0.7 + 0.6 * tempo) / 30 / motion.seconds
        time = time % (length - 1) if motion.wraps else time.clamp(max=length - 1)
        before = time.long().clamp(max=length - 2)
        windows.append(
            torch.lerp(motion.joints[before], motion.joints[before + 1], (time - before)[:, None, None])
        )
    yaw = torch.rand(count, generator=generator) * 2 * torch.pi
    pitch = (torch.rand(count, generator=generator) - 0.3) * 0.6
    truth = torch.stack(windows) @ _looking(yaw, pitch).mT[:, None]
    pictured = FOCAL * truth[..., :2] / (truth[..., 2:] + DISTANCE)
    return pictured + noise * torch.randn(pictured.shape, generator=generator), truth


def _looking(yaw: Float[Tensor, "b"], pitch: Float[Tensor, "b"]) -> Float[Tensor, "b 3 3"]:
    half = torch.stack([yaw / 2, pitch / 2])
    cos, sin, zero = half.cos(), half.sin(), torch.zeros_like(yaw)
    about_y = _of_quaternion(torch.stack([cos[0], zero, sin[0], zero], 1))
    return _of_quaternion(torch.stack([cos[1], sin[1], zero, zero], 1)) @ about_y


def _of_quaternion(q: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
