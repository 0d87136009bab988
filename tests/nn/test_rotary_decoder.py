from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.rotary_decoder import RotaryBlock, grid_turns, turn


def test_turned_products_depend_on_distances_alone() -> None:
    turns = grid_turns(4, 8)
    assert turns.shape == (17, 4, 2)
    q, k = torch.randn(2, 8)
    turned = [turn(x.expand(1, 1, 17, 8), turns)[0, 0, 1:].unflatten(0, (4, 4)) for x in (q, k)]
    product = torch.einsum("yxc,vuc->yxvu", *turned)
    torch.testing.assert_close(product[0, 0, 1, 2], product[2, 1, 3, 3])
    assert not torch.allclose(product[0, 0, 1, 2], product[0, 0, 2, 1])
    torch.testing.assert_close(turn(q.expand(1, 1, 1, 8), turns[:1])[0, 0, 0], q)


def test_a_silent_first_place_is_erased() -> None:
    turns = grid_turns(2, 8, silent_first=True)
    x = turn(torch.randn(1, 1, 5, 8), turns)
    assert not x[:, :, 0].any()
    assert x[:, :, 1:].abs().amin() > 0
    assert torch.equal(grid_turns(2, 8)[1:], turns[1:])


def test_steps_with_a_state_are_the_whole() -> None:
    block = RotaryBlock(16, 2, 24).eval()
    turns, x = grid_turns(2, 8), torch.randn(2, 5, 16)
    whole = block(x, turns)
    state: dict = {}
    steps = [block(x[:, n : n + 1], turns[n : n + 1], state) for n in range(5)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    changed = x.clone()
    changed[:, 3:] = 0
    torch.testing.assert_close(block(changed, turns)[:, :3], whole[:, :3])


def test_heads_hold_channels_in_fours() -> None:
    with pytest.raises(ConfigError, match="into fours"):
        RotaryBlock(12, 2, 8)
