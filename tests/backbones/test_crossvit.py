"""CrossViT: sizes of the presets, what the exchange touches, any size, official and timm's names."""

import pytest
import torch

import smalti
from smalti.backbones.crossvit import CrossViT, CrossViTConfig, MultiScaleBlock
from smalti.backbones.crossvit_fusion import CrossAttentionFusion
from smalti.errors import ConfigError, MediaError

LAYOUT = {"patches": (12, 16), "sizes": (48, 32), "mlp_ratios": (2.0, 2.0), "classes": 3}
TINY = CrossViTConfig((16, 24), ((1, 2, 0), (1, 1, 0)), (2, 3), **LAYOUT)
DAGGER = CrossViTConfig((16, 24), ((1, 2, 2),), (2, 3), conv_stem=True, **LAYOUT)

PARAMS = {
    "tiny": 6.9,
    "small": 26.7,
    "base": 104.7,
    "9": 8.6,
    "9_dagger": 8.8,
    "15": 27.4,
    "15_dagger": 28.2,
    "18": 43.3,
    "18_dagger": 44.3,
}
FLOPS = {
    "tiny": 1.6,
    "small": 5.6,
    "base": 21.2,
    "9": 1.8,
    "9_dagger": 2.0,
    "15": 5.8,
    "15_dagger": 6.1,
    "18": 9.0,
    "18_dagger": 9.5,
}


def preset(name):
    smalti.systems()  # imported before, not on the meta device
    with torch.device("meta"):
        return smalti.create("crossvit", f"crossvit_{name}_224")


def spared(config):
    """Keys and values that a plain port would have computed, less what asks instead of them."""
    total = 0
    for i in range(2):
        dim, heads, tokens = config.dims[i], config.heads[i], (config.sizes[i] // config.patches[i]) ** 2 + 1
        total += 2 * tokens * dim * dim + 2 * tokens * dim - 2 * dim * dim - 2 * tokens * heads * dim
    return total * len(config.depths)


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_and_multiply_adds_of_the_presets(name):
    model = preset(name)
    assert model.params() / 1e6 == pytest.approx(PARAMS[name], rel=0.02)
    ours = model.flops((1, 3, 1, 240, 240))
    assert (ours + spared(model.config)) / 1e9 == pytest.approx(FLOPS[name], rel=0.02, abs=0.05)
    assert ours < 0.985 * (ours + spared(model.config))


def test_every_preset_can_be_built():
    smalti.systems()
    for name in smalti.registry.card("crossvit").presets:
        with torch.device("meta"):
            assert smalti.create("crossvit", name).config.classes == 1000


def test_the_exchange_touches_class_tokens_alone():
    block = MultiScaleBlock(TINY, (0, 0, 0), ()).eval()
    fine, coarse = torch.randn(2, 17, 16), torch.randn(2, 5, 24)
    with torch.no_grad():
        plain = block([fine, coarse])
        assert torch.equal(plain[0][:, 1:], fine[:, 1:])
        assert torch.equal(plain[1][:, 1:], coarse[:, 1:])
        assert not torch.equal(plain[0][:, 0], fine[:, 0])
        other_coarse = block([fine, torch.cat([coarse[:, :1], coarse[:, 1:] + 1], 1)])
        other_fine = block([torch.cat([fine[:, :1], fine[:, 1:] + torch.randn(16)], 1), coarse])
    assert not torch.allclose(other_coarse[0][:, 0], plain[0][:, 0], atol=0, rtol=0)
    assert torch.equal(other_coarse[1][:, 0], plain[1][:, 0])
    assert torch.equal(other_fine[0][:, 0], plain[0][:, 0])
    assert not torch.allclose(other_fine[1][:, 0], plain[1][:, 0], atol=0, rtol=0)


def test_any_number_of_branches():
    fusion = CrossAttentionFusion((8, 12, 16), (2, 3, 4))
    parts = [torch.randn(2, n, d) for n, d in ((5, 8), (4, 12), (3, 16))]
    assert [tuple(x.shape) for x in fusion(parts)] == [(2, 5, 8), (2, 4, 12), (2, 3, 16)]


def test_the_order_of_patches_does_not_count():
    model = CrossViT(TINY).eval()
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(4)])
    with torch.no_grad():
        fine, coarse = model.embed(torch.randn(2, 3, 48, 48)).branches
        before, after = [fine, coarse], [fine, coarse[:, order]]
        for block in model.blocks:
            before, after = block(before), block(after)
    for number in range(2):
        torch.testing.assert_close(after[number][:, 0], before[number][:, 0])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (30, 100), (7, 7)])
def test_any_size_is_resized(height, width):
    features = CrossViT(TINY).eval()(torch.rand(2, 3, 1, height, width))
    assert features.tokens.shape == (2, 5, 24)
    assert features.pooled.shape == (2, 40)
    assert [tuple(m.shape) for m in features.pyramid] == [(2, 16, 1, 4, 4), (2, 24, 1, 2, 2)]


@pytest.mark.parametrize("conv_stem", [False, True])
def test_native_keeps_size_and_proportions(conv_stem):
    layout = LAYOUT | {"sizes": (240, 224), "fit": "native", "conv_stem": conv_stem}
    model = CrossViT(CrossViTConfig((16, 24), ((1, 1, 0),), (2, 3), **layout)).eval()
    features = model(torch.rand(1, 3, 1, 120, 60))
    assert [tuple(m.shape[-2:]) for m in features.pyramid] == [(10, 5), (7, 4)]
    assert features.grid == (1, 7, 4)
    with pytest.raises(MediaError, match="smaller than a patch"):
        model(torch.rand(1, 3, 1, 120, 4))


def test_crop_takes_the_middle():
    model = CrossViT(CrossViTConfig((16, 24), ((1, 1, 0),), (2, 3), fit="crop", **LAYOUT))
    frames = torch.rand(1, 3, 50, 40)
    assert torch.equal(model.fitted(frames, 1), frames[..., 9:41, 4:36])
    assert model.fitted(frames, 0).shape == (1, 3, 48, 48)


def test_frames_are_looked_at_one_by_one():
    model, clip = CrossViT(TINY).eval(), torch.rand(2, 3, 3, 40, 40)
    with torch.no_grad():
        whole, parts = model(clip), [model(frame) for frame in clip.split(1, 2)]
    assert whole.grid == (3, 2, 2)
    torch.testing.assert_close(whole.pooled, torch.stack([part.pooled for part in parts]).mean(0))
    torch.testing.assert_close(whole.pyramid[0], torch.cat([part.pyramid[0] for part in parts], 2))
    assert model.classify(clip).shape == (2, 3)


@pytest.mark.parametrize("config", [TINY, DAGGER])
def test_gradients_reach_every_parameter(config):
    model = CrossViT(config)
    (model.classify(torch.rand(2, 3, 1, 48, 48)) * torch.randn(2, 3)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    still = {name for name, p in model.named_parameters() if not p.grad.any()}
    assert all(name.endswith(("wk.bias", "wk.weight", "wq.bias", "wq.weight")) for name in still)


def test_bf16_is_near_float32():
    model, pixels = CrossViT(TINY).eval(), torch.rand(2, 3, 1, 48, 48)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("config", [TINY, DAGGER])
def test_the_layouts_of_both_repositories_load(config, tmp_path):
    model = CrossViT(config).eval()
    state = model.state_dict()
    timm = {
        k.replace("pos_embed.", "pos_embed_").replace("cls_token.", "cls_token_"): v for k, v in state.items()
    }
    pixels = torch.rand(1, 3, 1, 48, 48)
    for number, layout in enumerate((state, timm)):
        torch.save(layout, tmp_path / f"{number}.pth")
        again = smalti.load_official("crossvit", tmp_path / f"{number}.pth", heads=(2, 3))
        assert again.config.depths == config.depths
        with torch.no_grad():
            assert torch.equal(again(pixels).pooled, model(pixels).pooled)


def test_refusals():
    with pytest.raises(ConfigError, match="one for every branch"):
        CrossViTConfig(heads=(6,))
    with pytest.raises(ConfigError, match="3 numbers each"):
        CrossViTConfig(depths=((1, 4),))
    with pytest.raises(ConfigError, match="patches of 12"):
        CrossViTConfig(sizes=(230, 224))
    with pytest.raises(ConfigError, match="12 or 16"):
        CrossViTConfig(patches=(8, 16), conv_stem=True)
    with pytest.raises(ConfigError, match="not one of this system"):
        CrossViT.from_official({"weight": torch.zeros(1)})
    with pytest.raises(MediaError, match="NaN"):
        CrossViT(TINY)(torch.full((1, 3, 1, 48, 48), torch.nan))
