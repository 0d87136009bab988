from __future__ import annotations

import torch
from torch import nn

from smalti.nn.conv import ResidualBlock, zero_init


def test_a_block_starts_as_the_identity() -> None:
    x = torch.rand(2, 4, 5, 6)
    assert torch.equal(ResidualBlock(4)(x), x)


def test_every_sample_chooses_its_own_scale_and_shift() -> None:
    block = ResidualBlock(4, conditions=3)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(1, 4, 5, 6)
    each = torch.cat([block(x, torch.tensor([index])) for index in range(3)])
    together = block(x.expand(3, -1, -1, -1), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(together, each[[2, 0, 1]])
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(block(x), each[:1])


def test_scale_and_shift_act_on_channels_before_the_relu() -> None:
    block = ResidualBlock(2)
    for convolution in (block.enter, block.leave):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    block.scale.data = torch.tensor([[2.0, -1.0]])
    block.shift.data = torch.tensor([[1.0, 0.5]])
    x = torch.tensor([3.0, 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    expected = torch.tensor([3.0 + 7.0, 0.25 + 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    torch.testing.assert_close(block(x), expected)


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
