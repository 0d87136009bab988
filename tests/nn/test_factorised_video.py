from __future__ import annotations

import pytest
import torch

from smalti.nn.factorised_video import (
    FrameWindows,
    Layer,
    Layers,
    PlaceConvolution,
    SpaceAttention,
    TimeAttention,
)
from smalti.nn.place_bias import ContinuousBias

GRID = torch.Size((2, 5, 3, 4, 8))


def changed_after(x: torch.Tensor, frame: int) -> torch.Tensor:
    other = x.clone()
    other[:, frame:] = torch.randn_like(other[:, frame:])
    return other


def layers_along_time(lookback: int | None = None) -> Layers:
    made = (Layer(8, TimeAttention(8, 2, 4, lookback=lookback), PlaceConvolution(8)) for _ in range(2))
    return Layers(8, made)


@pytest.mark.parametrize("lookback", [None, 1, 3])
def test_parts_give_what_the_whole_gives(lookback) -> None:
    layers, x, state = layers_along_time(lookback), torch.randn(GRID), {}
    parts = [layers(part, state) for part in x.split([1, 2, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), layers(x))


def test_a_state_does_not_grow_where_looking_back_is_bounded() -> None:
    def kept(lookback: int | None, frames: int) -> int:
        layers, state = layers_along_time(lookback), {}
        for _ in range(frames):
            layers(torch.randn(1, 1, 2, 2, 8), state)
        flat = [each for held in state.values() for each in (held if isinstance(held, tuple) else [held])]
        return sum(each.numel() for each in flat)

    assert kept(3, 4) == kept(3, 9)
    assert kept(None, 4) < kept(None, 9)


def test_looking_back_less_changes_what_is_seen() -> None:
    torch.manual_seed(0)
    attention, x = TimeAttention(8, 2, 4, lookback=2), torch.randn(GRID)
    other = x.clone()
    other[:, 0] += 1
    difference = (attention(other) - attention(x)).abs().amax((0, 2, 3, 4))
    assert (difference[:2] > 1e-5).all()
    assert (difference[2:] == 0).all()


def test_time_is_causal_and_places_are_apart() -> None:
    attention, x = TimeAttention(8, 2, 4), torch.randn(GRID)
    out = attention(x)
    torch.testing.assert_close(attention(changed_after(x, 3))[:, :3], out[:, :3])
    torch.testing.assert_close(attention(x[:, :, 1:2, 2:3]), out[:, :, 1:2, 2:3])
    flat = TimeAttention(8, 2, 4, falling=False)
    flat.load_state_dict(attention.state_dict())
    assert (flat(x) - out).abs().max() > 1e-4  # distance in time counts


def test_frames_are_apart_in_space() -> None:
    x = torch.randn(GRID)
    for attention in (SpaceAttention(8, 2, 4), FrameWindows(8, 2, 2), SpaceAttention(8, 2, 4, rotary=True)):
        torch.testing.assert_close(attention(x)[:, 2:3], attention(x[:, 2:3]))


def test_a_bias_may_be_a_layers_own_or_shared() -> None:
    torch.manual_seed(0)
    own, shared, x = SpaceAttention(8, 2, 4, bias=True), SpaceAttention(8, 2, 4), torch.randn(GRID)
    bias = ContinuousBias(8, 2)
    bias.load_state_dict(own.bias.state_dict())
    shared.load_state_dict(own.state_dict(), strict=False)
    torch.testing.assert_close(shared(x, bias=bias((3, 4))), own(x))
    assert (shared(x) - own(x)).abs().max() > 1e-5


def test_rotation_counts_rows_and_columns() -> None:
    attention, x = SpaceAttention(8, 1, 8, rotary=True), torch.randn(1, 1, 2, 3, 8)
    rolled = attention(x.roll(1, 3)).roll(-1, 3)
    assert (rolled - attention(x)).abs().max() > 1e-5


def test_windows_do_not_see_what_is_beyond_the_edge() -> None:
    attention, x = FrameWindows(8, 2, 2), torch.randn(1, 2, 3, 5, 8)
    out = attention(x)
    torch.testing.assert_close(attention(x[:, :, :2, :2]), out[:, :, :2, :2])
    corner = attention.within.proj(attention.within.split(attention.norm(x)[:, 0, 2, 4:5])[2].flatten(1))
    torch.testing.assert_close(out[:, 0, 2, 4], corner)


def test_the_convolution_is_causal_or_looks_both_ways() -> None:
    x = torch.randn(GRID)
    causal, both = PlaceConvolution(8), PlaceConvolution(8, causal=False)
    assert torch.equal(causal(changed_after(x, 3))[:, :3], causal(x)[:, :3])
    moved = (both(changed_after(x, 3)) - both(x)).abs().amax((0, 2, 3, 4))
    assert (moved[:2] == 0).all()
    assert (moved[2:] > 0).all()
    assert both(x).shape == x.shape


def test_the_scrambled_convolution_takes_the_memory_for_another_grid() -> None:
    right, wrong, x = PlaceConvolution(8), PlaceConvolution(8, scrambled=True), torch.randn(GRID)
    wrong.load_state_dict(right.state_dict())
    memory = x.permute(0, 2, 3, 1, 4).contiguous()  # b h w t d, as time layers hold it
    expected = right(memory.view(GRID)).contiguous().view(memory.shape).permute(0, 3, 1, 2, 4)
    torch.testing.assert_close(wrong(x), expected)
    assert (wrong(changed_after(x, 4)) - wrong(x))[:, :4].abs().max() > 1e-3
    torch.testing.assert_close(wrong(x[:, :1]), right(x[:, :1]))  # a picture has one frame
