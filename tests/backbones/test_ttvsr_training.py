"""How TTVSR learns: loss, groups of parameters, what a clip is turned into."""

import pytest
import torch

from smalti.backbones.ttvsr import TTVSR, TTVSRConfig
from smalti.backbones.ttvsr_layers import is_mirrored
from smalti.backbones.ttvsr_training import augmented, charbonnier, hold_flow, mirrored, parameter_groups

TINY = TTVSRConfig(channels=6, extract=1, blocks=1, fine=8)


def test_charbonnier_is_the_mean_distance_and_smooth_at_zero():
    target = torch.zeros(1, 3, 1, 1, 1)
    candidate = torch.tensor([0.0, 1.0, -2.0]).view_as(target).requires_grad_()
    loss = charbonnier(candidate, target)
    assert loss.item() == pytest.approx(1.0, abs=1e-5)
    loss.backward()
    assert candidate.grad.flatten().tolist() == pytest.approx([0, 1 / 3, -1 / 3])


def test_spynet_learns_at_an_eighth_and_not_at_first():
    model = TTVSR(TINY)
    rest, flow = parameter_groups(model)
    assert (rest["factor"], flow["factor"]) == (1.0, 0.125)
    assert {id(p) for p in flow["params"]} == {id(p) for p in model.spynet.parameters()}
    assert len(rest["params"]) + len(flow["params"]) == len(list(model.parameters()))
    hold_flow(model, 4999)
    assert not any(p.requires_grad for p in model.spynet.parameters())
    assert all(p.requires_grad for p in model.trunk.parameters())
    hold_flow(model, 5000)
    assert all(p.requires_grad for p in model.spynet.parameters())
    still = TTVSR(TTVSRConfig(channels=6, extract=1, blocks=1, fine=8, flow="zero"))
    hold_flow(still, 0)
    assert len(parameter_groups(still)) == 1


def test_a_step_lowers_the_loss():
    model = TTVSR(TTVSRConfig(channels=6, extract=1, blocks=1, fine=8, flow="zero"))
    clip, fine = torch.rand(1, 3, 4, 8, 8), torch.ones(1, 3, 4, 32, 32)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = charbonnier(model.restore(clip), fine)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def test_clips_of_one_scene_are_turned_alike():
    coarse = torch.rand(1, 3, 4, 6, 8)
    fine = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2)
    seen = set()
    for number in range(40):
        one, other = augmented((coarse, fine), torch.Generator().manual_seed(number))
        assert torch.equal(one.repeat_interleave(4, -1).repeat_interleave(4, -2), other)
        seen.add(tuple(one.flatten().tolist()))
    assert len(seen) > 12


def test_a_mirrored_clip_is_its_own_reverse():
    clip = torch.rand(1, 3, 7, 4, 4)
    twice = mirrored(mirrored(clip))
    assert twice.shape[2] == 28
    assert is_mirrored(twice)
    assert torch.equal(twice[:, :, :7], clip)
