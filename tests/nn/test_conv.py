from __future__ import annotations

import torch
from torch import nn

from smalti.nn.conv import ResidualBlock, unit_norm, zero_init


def test_a_block_starts_as_the_identity() -> None:
    x = torch.rand(2, 4, 5, 6)
    assert torch.equal(ResidualBlock(4)(x), x)


def test_every_sample_chooses_its_own_scale_and_shift() -> None:
    block = ResidualBlock(4, conditions=3)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.rand(1, 4, 5, 6)
    each = torch.cat([block(x, torch.tensor([index])) for index in range(3)])
    together = block(x.expand(3, -1, -1, -1), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(together, each[[2, 0, 1]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(block(x), each[:1])


def test_scale_and_shift_act_on_channels_between_norm_and_relu() -> None:
    block = ResidualBlock(2)
    for convolution in (block.enter, block.leave):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    block.scale.data = torch.tensor([[2.0, -1.0]])
    block.shift.data = torch.tensor([[1.0, 0.05]])
    x = torch.tensor([3.0, 0.25]).reshape(1, 2, 1, 1)
    one, other = (x / x.square().mean().sqrt()).flatten().tolist()
    assert other > 0.05  # so the second channel turns negative, of which a tenth leaks
    expected = torch.tensor([3 + 2 * one + 1, 0.25 + 0.1 * (0.05 - other)]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(block(x.expand(1, 2, 3, 2)), expected.expand(1, 2, 3, 2), rtol=1e-5, atol=1e-5)


def test_every_position_is_scaled_by_itself_to_one() -> None:
    x = torch.randn(2, 6, 3, 4) * 10 ** torch.linspace(-1, 4, 12).reshape(3, 4)
    unit = unit_norm(x)
    torch.testing.assert_close(unit.square().mean(1), torch.ones(2, 3, 4), rtol=1e-3, atol=0)
    assert torch.equal(unit.sign(), x.sign())
    changed = x.clone()
    changed[..., 1, 2] *= -5
    same = (unit == unit_norm(changed)).all(1)
    assert same.sum() == same.numel() - 2
    assert not unit_norm(torch.zeros(1, 2, 1, 1)).any()


def test_a_block_reaches_two_positions() -> None:
    block = ResidualBlock(2)
    nn.init.ones_(block.leave.weight)
    x = torch.rand(1, 2, 11, 11)
    changed = x.clone()
    changed[..., 5, 5] += 5
    reached = (block(x) != block(changed)).any(1)[0].nonzero() - 5
    assert reached.abs().max() == 2


def test_zero_init_gives_nothing_with_and_without_bias() -> None:
    for bias in (True, False):
        layer = zero_init(nn.Conv2d(3, 5, 1, bias=bias))
        assert not layer(torch.rand(1, 3, 4, 4)).any()
