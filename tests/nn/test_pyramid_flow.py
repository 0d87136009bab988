"""Warping by flow, and SPyNet's sizes."""

import pytest
import torch

from smalti.nn.pyramid_flow import SPyNet, flow_warp


def test_warping_by_whole_pixels_moves_the_map_and_continues_its_border():
    maps = torch.randn(2, 3, 6, 8)
    flow = torch.zeros(2, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -1
    moved = flow_warp(maps, flow)
    torch.testing.assert_close(moved[..., 1:, :-2], maps[..., :-1, 2:])
    torch.testing.assert_close(moved[..., 1:, -2:], maps[..., :-1, -1:].expand(-1, -1, -1, 2))
    torch.testing.assert_close(moved[..., 0, :-2], maps[..., 0, 2:])


def test_warping_is_bilinear_between_pixels():
    maps = torch.arange(5.0).view(1, 1, 1, 5)
    flow = torch.zeros(1, 2, 1, 5)
    flow[:, 0] = 0.25
    assert flow_warp(maps, flow)[0, 0, 0].tolist() == pytest.approx([0.25, 1.25, 2.25, 3.25, 4.0])


def test_half_precision_keeps_its_type_and_far_places():
    maps = torch.arange(600.0).remainder(7).view(1, 1, 1, 600).bfloat16()
    warped = flow_warp(maps, torch.ones(1, 2, 1, 600, dtype=torch.bfloat16))
    assert warped.dtype == torch.bfloat16
    torch.testing.assert_close(warped[..., :-1], maps[..., 1:], atol=0.05, rtol=0)


def test_flow_is_of_any_size_and_scaled_back():
    network = SPyNet().eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(network.levels[-1][-1].bias, 1.0)  # one pixel at the stretched size
    with torch.no_grad():
        flow = network(torch.rand(2, 3, 24, 40), torch.rand(2, 3, 24, 40))
    assert flow.shape == (2, 2, 24, 40)
    torch.testing.assert_close(flow[:, 0], torch.full((2, 24, 40), 40 / 64))
    torch.testing.assert_close(flow[:, 1], torch.full((2, 24, 40), 24 / 32))


def test_flow_grows_from_scale_to_scale():
    network = SPyNet().eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(network.levels[0][-1].bias, 1.0)
    with torch.no_grad():
        flow = network(torch.rand(1, 3, 32, 64), torch.rand(1, 3, 32, 64))
    torch.testing.assert_close(flow, torch.full((1, 2, 32, 64), 32.0))
