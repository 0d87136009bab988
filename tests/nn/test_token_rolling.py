"""Rolling: what moves where, the way back, and single frames."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.token_rolling import PATTERNS, TokenRoll

ROLLING = ("ends", "random", "moving")


def frames(count=4, tokens=17, dim=16):
    """Tokens that say their frame and number."""
    t, n = torch.meshgrid(torch.arange(count), torch.arange(tokens), indexing="ij")
    return (t * 100.0 + n)[None, ..., None].expand(2, -1, -1, dim).contiguous()


def test_the_ends_come_from_the_neighbours_and_wrap_around():
    rolled = TokenRoll()(frames())[0, :, :, 0]
    for t in range(4):
        assert rolled[t, :1].tolist() == [t * 100]
        assert rolled[t, 1:3].tolist() == [(t - 1) % 4 * 100 + n for n in (1, 2)]
        assert rolled[t, 3:15].tolist() == [t * 100 + n for n in range(3, 15)]
        assert rolled[t, 15:].tolist() == [(t + 1) % 4 * 100 + n for n in (15, 16)]


@pytest.mark.parametrize("layer", [0, 3, 7, 8])
def test_another_part_moves_in_every_block(layer):
    rolled = TokenRoll("moving")(frames(), layer)[0, 1, :, 0]
    begin = 1 + 2 * (layer % 8)
    moved = [n for n in range(17) if rolled[n] != 100 + n]
    assert moved == list(range(begin, begin + 2))
    assert [rolled[n].item() for n in moved] == [float(n) for n in moved]


def test_a_random_half_moves():
    rolled = TokenRoll("random")(frames())
    source = frames()
    moved = (rolled != source).any(-1)[0, 1]
    assert int(moved.sum()) == 8
    assert not moved[0]
    assert torch.equal(rolled[:, :, moved], source.roll(1, 1)[:, :, moved])


def test_channels_shift_with_zeros_at_the_ends():
    x = torch.randn(2, 3, 5, 16)
    out = TokenRoll("channels")(x)
    assert torch.equal(out[:, :-1, :, :2], x[:, 1:, :, :2])
    assert torch.equal(out[:, 1:, :, 2:4], x[:, :-1, :, 2:4])
    assert torch.equal(out[..., 4:], x[..., 4:])
    assert not out[:, -1, :, :2].any()


def test_the_official_channels_are_tokens():
    x = torch.randn(2, 3, 5, 16)
    out = TokenRoll("official-channels")(x)
    assert torch.equal(out[:, :-1, :2], x[:, 1:, :2])
    assert torch.equal(out[:, 1:, 2:4], x[:, :-1, 2:4])
    assert torch.equal(out[:, :, 4:], x[:, :, 4:])
    assert not out[:, -1, :2].any()


@pytest.mark.parametrize("pattern", ["ends", "moving", "none"])
@pytest.mark.parametrize("layer", [0, 5])
def test_there_and_back(pattern, layer):
    x, roll = torch.randn(2, 4, 17, 3), TokenRoll(pattern)
    assert torch.equal(roll.inverse(roll(x, layer), layer), x)


@pytest.mark.parametrize("pattern", ["ends", "moving", "random", "none"])
def test_a_single_frame_stays(pattern):
    x = torch.randn(2, 1, 17, 3)
    assert torch.equal(TokenRoll(pattern)(x, 2), x)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("tokens", [2, 8, 15])
def test_any_number_of_tokens(pattern, tokens):
    assert TokenRoll(pattern)(torch.randn(1, 3, tokens, 16), 3).shape == (1, 3, tokens, 16)


def test_refusals():
    with pytest.raises(ConfigError, match="did you mean 'ends'"):
        TokenRoll("end")
    with pytest.raises(ConfigError, match="both ways"):
        TokenRoll(share=1)
    with pytest.raises(ConfigError, match="undone"):
        TokenRoll("random").inverse(torch.zeros(1, 1, 2, 1))
