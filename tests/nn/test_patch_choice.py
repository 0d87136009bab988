"""Which patches are kept: as many as asked, in raster order, by each choice as it says."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.patch_choice import CHOICES, choose_patches, patch_motion


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_as_many_as_asked_in_raster_order(choice, count):
    kept = choose_patches(choice, 3, (4, 6), count, motion=torch.rand(3, 24))
    assert kept.shape == (3, count)
    assert (kept.diff(dim=1) > 0).all()
    assert count < 24 or torch.equal(kept, torch.arange(24).expand(3, -1))


def test_a_seed_draws_once_for_all_frames():
    drawn = choose_patches("random", 5, (8, 8), 9, seed=3)
    assert (drawn == drawn[:1]).all()
    assert torch.equal(drawn, choose_patches("random", 5, (8, 8), 9, seed=3))
    assert not torch.equal(drawn, choose_patches("random", 5, (8, 8), 9, seed=4))
    free = choose_patches("random", 5, (8, 8), 9)
    assert not (free == free[:1]).all()
    many = choose_patches("random", 4000, (2, 3), 2)
    assert torch.bincount(many.flatten()).sub(8000 / 6).abs().max() < 200


def test_uniform_is_spread_and_centre_is_central():
    assert choose_patches("uniform", 1, (4, 4), 4).tolist() == [[2, 6, 10, 14]]
    assert choose_patches("centre", 1, (4, 4), 4).tolist() == [[5, 6, 9, 10]]
    assert choose_patches("centre", 1, (3, 5), 1).tolist() == [[7]]


def test_motion_finds_what_moved():
    frames = torch.rand(2, 3, 16, 24)
    others = frames.clone()
    others[0, :, 8:16, 16:24] += 0.5
    others[1, :, 0:8, 8:10] -= 1
    moved = patch_motion(frames, others, 8)
    torch.testing.assert_close(moved[0], torch.tensor([0, 0, 0, 0, 0, 0.5]))
    assert choose_patches("motion", 2, (2, 3), 1, motion=moved).tolist() == [[5], [1]]


def test_refusals():
    for wrong, match in (
        (("motoin", 1, (2, 2), 1), "did you mean 'motion'"),
        (("motion", 1, (2, 2), 1), "needs the motion"),
        (("uniform", 1, (2, 2), 5), "5 patches cannot be kept"),
    ):
        with pytest.raises(ConfigError, match=match):
            choose_patches(*wrong)
