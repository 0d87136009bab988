"""Places along trajectories, tokens of several scales, and what attention along trajectories costs."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.trajectories import (
    KeyFrames,
    LocationMap,
    TrajectoryAttention,
    cross_scale_tokens,
    nearest_places,
    square_tokens,
)


def grid(height, width):
    return torch.arange(height * width).view(1, 1, height, width)


def flow_of(x, y, height, width):
    return torch.stack(
        [torch.full((1, height, width), float(x)), torch.full((1, height, width), float(y))], 1
    )


def test_without_motion_tokens_stay():
    location = LocationMap.empty(2, 3, 5).add_keyframe()
    still = torch.zeros(2, 2, 3, 5)
    location = location.advance(still).add_keyframe().advance(still)
    assert torch.equal(location.places, grid(3, 5).expand(2, 2, 3, 5))


def test_a_token_a_frame_moves_places_a_token_a_frame():
    """Every key frame is as many tokens away as frames have passed; the border goes on."""
    location = LocationMap.empty(1, 4, 6)
    for _ in range(3):
        location = location.add_keyframe().advance(flow_of(1, -1, 4, 6))
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    for key, passed in enumerate((3, 2, 1)):
        wanted = (rows - passed).clamp(0, 3) * 6 + (columns + passed).clamp(0, 5)
        assert torch.equal(location.places[0, key], wanted)


def test_places_are_the_nearest_tokens_or_nowhere():
    location = torch.tensor([[0.4, 1.6, -0.6, 2.4], [0.0, 1.4, 0.0, 1.6]])
    location = rearrange(location, "two x -> 1 1 two 1 x")
    location = torch.cat([location, location + torch.tensor([0.0, -2.0]).view(2, 1, 1)], 3)
    assert nearest_places(location).flatten().tolist() == [0, 6, -1, -1, -1, -1, -1, 2]


def test_tokens_of_all_scales_are_official():
    """Windows folded onto a larger canvas that is pooled as a whole, as the paper draws it."""
    maps, stride = torch.randn(2, 3, 12, 20), 4
    whole = square_tokens(maps, stride)
    torch.testing.assert_close(whole, F.unfold(maps, stride, stride=stride).mT)
    small, middle, large = cross_scale_tokens(maps, stride)
    assert torch.equal(small, whole)
    for tokens, side, padding in ((middle, 6, 1), (large, 8, 2)):
        windows = F.unfold(maps, side, stride=stride, padding=padding)
        canvas = F.fold(windows, (3 * side, 5 * side), side, stride=side)
        wanted = F.unfold(F.adaptive_avg_pool2d(canvas, (12, 20)), stride, stride=stride).mT
        torch.testing.assert_close(tokens, wanted)


def test_one_key_frame_leaves_no_choice():
    attention = TrajectoryAttention(5, 4)
    feature, state, old, older = torch.randn(4, 2, 5, 8, 12).unbind(0)
    frames = attention.remember(old, older)
    places = LocationMap.empty(2, 2, 3).add_keyframe().places
    likeness = F.cosine_similarity(square_tokens(feature, 4), square_tokens(old, 4), dim=-1)
    values = torch.cat(
        [
            rearrange(tokens, "b (y x) (c p q) -> b c (y p) (x q)", y=2, p=4, q=4)
            for tokens in cross_scale_tokens(older, 4)
        ],
        1,
    )
    spread = F.interpolate(likeness.view(2, 1, 2, 3), scale_factor=4)
    torch.testing.assert_close(
        attention(feature, state, frames, places), state + attention.fuse(values) * spread
    )


def test_the_likest_key_frame_is_taken_and_no_other():
    attention = TrajectoryAttention(4, 2, (1.0,))
    feature, state, other = torch.randn(3, 1, 4, 6, 6).unbind(0)
    alike = attention.remember(3 * feature, state)
    both = attention.remember(other, torch.randn_like(state)).then(alike)
    places = LocationMap.empty(1, 3, 3).add_keyframe().add_keyframe().places
    torch.testing.assert_close(
        attention(feature, state, both, places), attention(feature, state, alike, places[:, :1])
    )


def test_nowhere_gives_zeros():
    attention = TrajectoryAttention(4, 2)
    feature, state = torch.randn(2, 1, 4, 6, 6).unbind(0)
    frames = attention.remember(feature, state)
    assert torch.equal(attention(feature, state, frames, torch.full((1, 1, 3, 3), -1)), state)


@pytest.mark.parametrize(("keyframes", "side"), [(1, 8), (3, 8), (3, 16)])
def test_every_token_compares_itself_once_with_each_key_frame(keyframes, side):
    attention = TrajectoryAttention(4, 4)
    feature = torch.randn(1, 4, side, side)
    one = attention.remember(feature, feature)
    frames, location = one, LocationMap.empty(1, side // 4, side // 4).add_keyframe()
    for _ in range(keyframes - 1):
        frames, location = frames.then(one), location.add_keyframe()
    convolution = side**2 * attention.fuse.weight.numel()
    comparisons = count_flops(attention, feature, feature, frames, location.places) - convolution
    assert comparisons == keyframes * (side // 4) ** 2 * 4 * 16


def test_gradients_reach_query_keys_values_and_state():
    attention = TrajectoryAttention(4, 4)
    feature, state, old, older = (torch.randn(1, 4, 8, 8, requires_grad=True) for _ in range(4))
    frames = attention.remember(old, older)
    attention(
        feature, state, frames, LocationMap.empty(1, 2, 2).add_keyframe().places
    ).square().sum().backward()
    assert all(x.grad is not None and x.grad.any() for x in (feature, state, old, older))


def test_key_frames_are_kept_in_order():
    first, second = (
        KeyFrames(torch.full((1, 1, 2, 3), x), (torch.full((1, 1, 2, 3), x),)) for x in (1.0, 2.0)
    )
    both = first.then(second)
    assert both.keys[0, :, 0, 0].tolist() == [1, 2]
    assert both.values[0][0, :, 0, 0].tolist() == [1, 2]


def test_windows_of_broken_pixels_are_refused():
    with pytest.raises(ConfigError, match="whole pixels"):
        TrajectoryAttention(4, 3)
    with pytest.raises(ConfigError, match="1 or more"):
        TrajectoryAttention(4, 4, (0.5,))
