"""Recorded motions: forward kinematics, windows and cameras."""

from __future__ import annotations

import json

import torch

from smalti.claims.motions import JOINTS, SKELETON, cameras, parsed, swinging


def test_limbs_keep_their_length_in_every_pose() -> None:
    joints = swinging(1)["swing 0"].joints
    for number, (_, parent, _, offset) in enumerate(SKELETON):
        if parent >= 0:
            length = (joints[:, number] - joints[:, parent]).norm(dim=1)
            torch.testing.assert_close(length, torch.tensor(offset).norm().expand(len(length)))


def test_a_file_of_no_rotations_stands_upright() -> None:
    turns = [[1.0, 0.0, 0.0, 0.0] if count == 4 else [0.0] * count for _, _, count, _ in SKELETON]
    frame = [0.05, 1.0, 2.0, 3.0, *(number for turn in turns for number in turn)]
    motion = parsed(json.dumps({"Loop": "none", "Frames": [frame, frame]}).encode())
    assert not motion.wraps
    assert abs(motion.seconds - 0.05) < 1e-6
    names = [name for name, *_ in SKELETON]
    head, foot = (motion.joints[0, names.index(name)] for name in ("neck", "left ankle"))
    torch.testing.assert_close(head, torch.tensor([0.0, 0.46, 0.0]))
    torch.testing.assert_close(foot, torch.tensor([0.0, -0.832, -0.085]))


def test_cameras_picture_what_is_there() -> None:
    motions = list(swinging(2).values())
    pictured, truth = cameras(motions, 3, 9, torch.Generator().manual_seed(0), noise=0.0)
    assert truth.shape == (3, 9, JOINTS, 3)
    torch.testing.assert_close(pictured, 2 * truth[..., :2] / (truth[..., 2:] + 4))
    torch.testing.assert_close(truth[:, :, 0], torch.zeros(3, 9, 3))
