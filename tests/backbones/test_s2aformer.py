"""S2AFormer: its steps, what is near and what is far, pyramids of any size."""

import pytest
import torch
from torch import nn

import smalti
from smalti.backbones.s2aformer import HybridPerceptionBlock, S2AFormer, S2AFormerConfig
from smalti.errors import ConfigError, MediaError, UnsupportedError
from smalti.registry import card_of

TINY = S2AFormerConfig((8, 12, 16, 24), (1, 1, 2, 1), (1, 2, 2, 4), classes=5)


def built(config=TINY):
    return S2AFormer(config).eval()


def parameters_by_hand(config):
    """Of the block's equations, stage by stage."""
    total, source = 0, config.dims[0]
    total += 3 * source * 9 + 2 * source * source * 9 + 3 * 2 * source  # stem and its norms
    for dim, depth, heads, ratio in zip(
        config.dims, config.depths, config.heads, config.reductions, strict=True
    ):
        total += source * dim * 9 + 2 * dim
        narrow = heads * config.qk_channels
        attention = 2 * (dim + 1) * narrow + 2 * (dim + 1) * dim
        attention += dim * (ratio**2 + 1) + 2 * dim if ratio > 1 else 0
        local = dim * dim + 2 * dim + 9 * dim + 2 * dim + (dim + 1) * dim
        mlp = 8 * dim * dim + 5 * dim
        total += depth * (10 * dim + attention + local + mlp + 3 * 2 * dim)
        source = dim
    return total + 2 * source + (source + 1) * config.classes


@pytest.mark.parametrize(("name", "millions"), [("tiny", 3.63), ("small", 11.2), ("base", 28.0)])
def test_parameters_of_the_presets(name, millions):
    config = card_of(S2AFormer).presets[name]
    with torch.device("meta"):
        model = S2AFormer(config)
    assert model.params() == parameters_by_hand(config)
    assert model.params() / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("size", [(224, 160), (33, 100), (5, 7)])
def test_pyramids_of_any_size(size):
    height, width = size
    features = built()(torch.rand(2, 3, 1, height, width))
    wanted = [
        (2, c, 1, -(-height // s), -(-width // s))
        for c, s in zip((8, 12, 16, 24), (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(m.shape) for m in features.pyramid] == wanted
    assert features.tokens.shape == (2, wanted[-1][3] * wanted[-1][4], 24)
    assert features.grid == (1, *wanted[-1][3:])
    assert features.pooled.shape == (2, 24)
    assert built().classify(features).shape == (2, 5)


def test_frames_are_looked_at_one_by_one():
    model, clip = built(), torch.rand(2, 3, 3, 40, 40)
    with torch.no_grad():
        whole, parts = model(clip), [model(frame) for frame in clip.split(1, 2)]
    torch.testing.assert_close(whole.pooled, torch.stack([part.pooled for part in parts]).mean(0))
    torch.testing.assert_close(whole.pyramid[0], torch.cat([part.pyramid[0] for part in parts], 2))
    assert whole.grid == (3, 2, 2)


def test_a_block_is_four_steps_in_order():
    block, maps = HybridPerceptionBlock(8, 2, 2).eval(), torch.randn(2, 8, 4, 6)
    with torch.no_grad():
        conv = block.conv(maps) + maps
        x = conv.flatten(2).mT
        x = block.attn(block.norm1(x), (4, 6)) + x
        x = block.lim(block.norm2(x).mT.reshape(2, 8, 4, 6)).flatten(2).mT + x
        x = block.mlp(block.norm3(x)) + x
        torch.testing.assert_close(block(maps), x.mT.reshape(2, 8, 4, 6))


def influence(block):
    """Which places the middle one depends on."""
    maps = torch.randn(1, 4, 16, 16, requires_grad=True)
    block(maps)[0, :, 8, 8].square().sum().backward()
    return maps.grad.abs().sum(1)[0] > 0


def test_attention_alone_looks_far():
    block = HybridPerceptionBlock(4, 2, 4).eval()
    assert influence(block).all()
    nn.init.zeros_(block.attn.proj.weight)
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[6:11, 6:11] = True  # two 3×3 convolutions
    assert torch.equal(influence(block), near)
    without = HybridPerceptionBlock(4, 2, 4, local=False).eval()
    nn.init.zeros_(without.attn.proj.weight)
    nearer = torch.zeros(16, 16, dtype=torch.bool)
    nearer[7:10, 7:10] = True
    assert torch.equal(influence(without), nearer)


@pytest.mark.parametrize("reduce", ["dwconv", "avg", "max"])
@pytest.mark.parametrize("local", [True, False])
def test_gradients_reach_every_parameter(reduce, local):
    config = S2AFormerConfig(
        (8, 12, 16, 24), (1, 1, 1, 1), (1, 2, 2, 4), reduce=reduce, local=local, classes=5
    )
    model = S2AFormer(config)
    logits = model.classify(model(torch.rand(2, 3, 1, 64, 64)))
    (logits * torch.randn(2, 5)).sum().backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith("to_k.bias") for name in missing)


def test_multiply_adds_grow_as_fast_as_pictures_do():
    """Attention alone would grow faster; here it is a small share."""
    model = built(S2AFormerConfig(classes=0))
    small, large = (model.flops((1, 3, 1, side, side)) for side in (64, 128))
    assert 4 <= large / small < 4.05


def test_strip_attention_costs_less_than_full_width():
    narrow, wide = (built(S2AFormerConfig(qk_channels=c)).flops((1, 3, 1, 224, 224)) for c in (1, 32))
    assert narrow < 0.95 * wide


def test_bf16_is_near_float32():
    model, pixels = built(), torch.rand(2, 3, 1, 64, 64)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


def test_a_step_lowers_the_loss():
    model, pixels = S2AFormer(TINY), torch.rand(6, 3, 1, 32, 32)
    labels = torch.arange(6) % 3
    pixels[:, :, 0, :, :16] *= labels.view(-1, 1, 1, 1) / 2
    optimiser, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model.classify(model(pixels)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="four"):
        S2AFormerConfig(depths=(2, 2))
    with pytest.raises(MediaError, match="NaN"):
        built()(torch.full((1, 3, 1, 32, 32), torch.nan))
    with pytest.raises(UnsupportedError, match="no official checkpoint"):
        smalti.load_official("s2aformer", tmp_path / "none.pt")
