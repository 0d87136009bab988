"""The block is timm's block, and its parts are what they are called."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError
from smalti.nn.transformer import Attention, Block, CrossAttention, DropPath, LayerScale, Mlp, QuickGELU


def shaken(module: nn.Module) -> nn.Module:
    """The module with parameters that hide nothing: none zero, none one."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.mark.parametrize("layer_scale", [None, 0.5])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_block_is_timms_with_the_same_weights(layer_scale, qkv_bias) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.models.vision_transformer.Block(
        32,
        4,
        mlp_ratio=3.0,
        qkv_bias=qkv_bias,
        init_values=layer_scale,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    ours = Block(32, 4, mlp_ratio=3.0, qkv_bias=qkv_bias, layer_scale=layer_scale).eval()
    ours.load_state_dict(shaken(theirs).state_dict())
    x = torch.randn(2, 11, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.feed(ours.attend(x)), ours(x))


def test_a_bias_or_a_mask_says_where_attention_goes() -> None:
    attention = shaken(Attention(16, 4))
    x = torch.randn(2, 7, 16)
    mask = torch.ones(1, 1, 1, 7, dtype=torch.bool)
    mask[..., 5:] = False
    torch.testing.assert_close(attention(x, mask)[:, :5], attention(x[:, :5]))
    bias = torch.zeros(1, 1, 1, 7).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(attention(x, bias), attention(x, mask))
    q, k, v = attention.split(x)
    assert q.shape == k.shape == v.shape == (2, 4, 7, 4)
    twice = (q @ k.mT / 2 + torch.tensor([0, 1.0, 0, 0, 0, 0, 0])).softmax(-1) @ v
    weighed = attention(x, torch.tensor([0, 1.0, 0, 0, 0, 0, 0]).view(1, 1, 1, 7))
    torch.testing.assert_close(attention.proj(twice.transpose(1, 2).flatten(2)), weighed)


def test_cross_attention_to_oneself_is_attention() -> None:
    own, cross = shaken(Attention(16, 4)), CrossAttention(16, 4)
    weight, bias = own.qkv.weight, own.qkv.bias
    cross.load_state_dict(
        {
            "q.weight": weight[:16],
            "q.bias": bias[:16],
            "kv.weight": weight[16:],
            "kv.bias": bias[16:],
            "proj.weight": own.proj.weight,
            "proj.bias": own.proj.bias,
        }
    )
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(cross(x, x), own(x))
    torch.testing.assert_close(cross(x[:, :3], x), own(x)[:, :3])
    assert CrossAttention(16, 4, source=10)(x, torch.randn(2, 5, 10)).shape == x.shape


def test_quick_gelu_is_near_gelu() -> None:
    x = torch.linspace(-4, 4, 101)
    found = QuickGELU()(x)
    torch.testing.assert_close(found, x / (1 + (-1.702 * x).exp()))
    assert (found - nn.functional.gelu(x)).abs().max() < 0.03


def test_an_mlp_sees_every_token_alone() -> None:
    mlp = shaken(Mlp(8, 24, QuickGELU))
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(mlp(x)[:, 3], mlp(x[:, 3]))
    assert isinstance(mlp.act, QuickGELU)


def test_layer_scale_starts_where_told() -> None:
    x = torch.randn(3, 8)
    torch.testing.assert_close(LayerScale(8, 0.25)(x), x / 4)


def test_dropped_paths_are_whole_samples_and_the_mean_stays() -> None:
    x = torch.ones(4000, 3, 2)
    path = DropPath(0.3)
    dropped = path(x)
    assert {0.0, round(1 / 0.7, 4)} == {round(value, 4) for value in dropped.unique().tolist()}
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(path.eval()(x), x)
    for rate in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="rate"):
            DropPath(rate)


def test_a_block_in_training_may_be_left_out() -> None:
    block = Block(16, 4, drop_path=0.99).train()
    x = torch.randn(64, 3, 16)
    same = (block(x) == x).all((1, 2))
    assert same.float().mean() > 0.8
    assert not (block.eval()(x) == x).all((1, 2)).any()
