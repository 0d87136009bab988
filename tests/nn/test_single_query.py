"""Attention of one query: the same as with keys and values, cheaper, linear in the tokens."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.single_query import SingleQueryAttention


def with_keys_and_values(module, x):
    q, k, v = (
        rearrange(part, "b n (h c) -> b h n c", h=module.heads)
        for part in (module.wq(x[:, :1]), module.wk(x), module.wv(x))
    )
    out = F.scaled_dot_product_attention(q, k, v, scale=module.scale)
    return module.proj(rearrange(out, "b h n c -> b n (h c)"))


@pytest.mark.parametrize(("bias", "scale"), [(True, None), (False, None), (True, 0.9)])
def test_keys_and_values_are_not_needed(bias, scale):
    module, x = SingleQueryAttention(24, 3, bias, scale), torch.randn(2, 17, 24)
    torch.testing.assert_close(module(x), with_keys_and_values(module, x))
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_it_is_cheaper_and_linear():
    module = SingleQueryAttention(64, 4)
    cost = [count_flops(module, torch.randn(1, n, 64)) for n in (100, 200, 400)]
    assert cost[2] - cost[1] == 2 * (cost[1] - cost[0])
    assert cost[2] < count_flops(with_keys_and_values, module, torch.randn(1, 400, 64)) / 4


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="5 heads"):
        SingleQueryAttention(24, 5)
