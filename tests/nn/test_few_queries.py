"""Cross-attention of few queries: the same as with keys and values, cheaper, linear in the tokens."""

import pytest
import torch

from smalti.nn.few_queries import FewQueryAttention
from smalti.nn.flops import count_flops
from smalti.nn.transformer import CrossAttention


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("queries", [1, 3])
def test_keys_and_values_are_not_needed(queries, qkv_bias):
    few = FewQueryAttention(24, 3, qkv_bias, source=16)
    plain = CrossAttention(24, 3, qkv_bias, source=16)
    plain.load_state_dict(few.state_dict())
    x, other = torch.randn(2, queries, 24), torch.randn(2, 17, 16)
    for bias in (None, torch.randn(2, 1, queries, 17), torch.randn(1, 3, 1, 17)):
        torch.testing.assert_close(few(x, other, bias), plain(x, other, bias))


def test_gradients_are_the_same_too():
    few, plain = FewQueryAttention(24, 3), CrossAttention(24, 3)
    plain.load_state_dict(few.state_dict())
    x, other = torch.randn(2, 1, 24), torch.randn(2, 17, 24)
    for module in (few, plain):
        module(x, other).square().sum().backward()
    for ours, theirs in zip(few.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_it_is_cheaper_and_linear():
    few, plain, query = FewQueryAttention(64, 4), CrossAttention(64, 4), torch.randn(1, 1, 64)
    cost = [count_flops(few, query, torch.randn(1, n, 64)) for n in (100, 200, 400)]
    assert cost[2] - cost[1] == 2 * (cost[1] - cost[0])
    assert cost[2] < count_flops(plain, query, torch.randn(1, 400, 64)) / 4
