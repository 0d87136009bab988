"""Slow copies: no gradient, and exactly the share of the way."""

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError
from smalti.nn.momentum_copy import follow, momentum_copy


def test_a_copy_follows_by_its_share():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy = momentum_copy(module)
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in module.parameters())
    before = [p.clone() for p in copy.parameters()]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    module(torch.randn(4, 2))
    follow(copy, module, 0.9)
    for old, new, target in zip(before, copy.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)
    for slow, fast in zip(copy.buffers(), module.buffers(), strict=True):
        assert torch.equal(slow, fast)


def test_a_momentum_above_one_is_refused():
    with pytest.raises(ConfigError, match="momentum"):
        follow(nn.Linear(1, 1), nn.Linear(1, 1), 1.1)
