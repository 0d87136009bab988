"""Strip self-attention: what it costs, what one channel a head means, when it is ordinary attention."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.flops import attention_flops, count_flops
from smalti.nn.strip_attention import LocalInteraction, Shrink, StripSelfAttention
from smalti.nn.transformer import Attention


@pytest.mark.parametrize(
    ("dim", "heads", "ratio", "narrow", "side"), [(64, 1, 8, 1, 56), (32, 4, 2, 2, 12), (32, 4, 1, 1, 6)]
)
def test_products_are_those_of_the_formula(dim, heads, ratio, narrow, side):
    attention = StripSelfAttention(dim, heads, ratio, narrow)
    tokens, keys = side**2, (side // ratio) ** 2
    products = heads * narrow * tokens * keys + tokens * keys * dim
    wide = heads * narrow
    projections = tokens * dim * wide + keys * dim * (wide + dim) + tokens * dim * dim
    reduction = tokens * dim if ratio > 1 else 0
    counted = count_flops(attention, torch.randn(1, tokens, dim), (side, side))
    assert counted == products + projections + reduction
    if ratio == 8:
        whole = attention_flops(tokens, dim) - 4 * tokens * dim * dim
        assert products / whole == pytest.approx((wide + dim) / (128 * dim), rel=1e-9)
        assert products / whole < 0.01


def test_with_all_channels_and_all_keys_it_is_ordinary_attention():
    strip, ordinary = StripSelfAttention(24, 3, 1, 8), Attention(24, 3)
    weights, biases = ordinary.qkv.weight.chunk(3), ordinary.qkv.bias.chunk(3)
    layers = (strip.to_q, strip.to_k, strip.to_v)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    strip.proj.load_state_dict(ordinary.proj.state_dict())
    x = torch.randn(2, 20, 24)
    torch.testing.assert_close(strip(x, (4, 5)), ordinary(x), atol=1e-6, rtol=1e-6)


def test_a_head_of_one_channel_knows_a_query_by_one_number():
    attention = StripSelfAttention(16, 4, 2)
    x = torch.randn(1, 16, 16)
    q, k = attention.to_q(x)[0].T, attention.to_k(attention.reduce(x.mT.view(1, 16, 4, 4)))[0].T
    for head in range(4):
        logits = q[head][:, None] * k[head][None]
        assert torch.linalg.matrix_rank(logits.detach()) == 1
        order = q[head].argsort()
        likest = logits.softmax(-1)[order, k[head].argmax()]
        assert (likest.diff() >= -1e-6).all()


def test_tokens_of_equal_queries_attend_alike():
    attention = StripSelfAttention(16, 4, 2)
    with torch.no_grad():
        attention.to_q.weight[:, 3:] = 0
        x = torch.randn(1, 16, 16)
        x[0, 9, :3] = x[0, 2, :3]
        out = attention(x, (4, 4))
    torch.testing.assert_close(out[0, 9], out[0, 2])
    assert not torch.allclose(out[0, 9], out[0, 3])


@pytest.mark.parametrize("how", ["dwconv", "avg", "max"])
def test_maps_that_the_ratio_does_not_divide(how):
    shrink = Shrink(8, 4, how)
    maps = torch.randn(2, 8, 9, 6)
    assert shrink(maps).shape == (2, 6, 8)
    attention = StripSelfAttention(8, 2, 4, reduce=how)
    assert attention(torch.randn(2, 54, 8), (9, 6)).shape == (2, 54, 8)


def test_pools_take_means_and_largest_of_what_is_there():
    maps = torch.arange(6.0).view(1, 1, 2, 3).expand(-1, 2, -1, -1)
    maps = maps * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    for how, wanted in (("avg", [[2, -2], [3.5, -3.5]]), ("max", [[4, 0], [5, -2]])):
        shrink = Shrink(2, 2, how)
        shrink.norm = torch.nn.Identity()
        assert shrink(maps)[0].tolist() == wanted


def test_local_interaction_sees_eight_neighbours():
    module, maps = LocalInteraction(4).eval(), torch.randn(1, 4, 9, 9)
    changed = maps.clone()
    changed[..., 4, 4] += 1
    moved = (module(changed) - module(maps)).abs().amax(1)[0] > 0
    wanted = torch.zeros(9, 9, dtype=torch.bool)
    wanted[3:6, 3:6] = True
    assert torch.equal(moved, wanted)


def test_refusals():
    with pytest.raises(ConfigError, match="must divide"):
        StripSelfAttention(10, 4, 2)
    with pytest.raises(ConfigError, match="1 or more"):
        StripSelfAttention(8, 4, 2, 0)
