"""T2T-ViT: sizes of the presets, overlap, random features, any size, official names."""

import pytest
import torch

import smalti
from smalti.backbones.t2t_vit import T2TViT, T2TViTConfig, TokensToToken, soft_split
from smalti.errors import ConfigError, MediaError

TINY = T2TViTConfig(dim=24, depth=2, heads=2, token_dim=8, size=32, classes=3)
EXACT = T2TViTConfig(dim=24, depth=2, heads=2, token_dim=8, size=32, classes=3, mixing="transformer")

PARAMS = {"7": 4.3, "10": 5.9, "12": 6.9, "14": 21.5, "19": 39.2, "24": 64.1}
FLOPS = {
    "7": 1.1,
    "10": 1.5,
    "12": 1.8,
    "14": 4.8,
    "19": 8.5,
    "24": 13.8,
    "t_14": 6.1,
    "t_19": 9.8,
    "t_24": 15.0,
}


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_of_the_presets(name):
    with torch.device("meta"):
        model = smalti.create("t2t-vit", f"t2t_vit_{name}")
    assert model.params() / 1e6 == pytest.approx(PARAMS[name], rel=0.02)


@pytest.mark.parametrize("name", FLOPS)
def test_multiply_adds_of_the_presets(name):
    with torch.device("meta"):
        model = smalti.create("t2t-vit", f"t2t_vit_{name}")
    assert model.flops((1, 3, 1, 224, 224)) / 1e9 == pytest.approx(FLOPS[name], rel=0.02, abs=0.05)


def test_three_splits_leave_a_256th_of_the_pixels():
    stem = TokensToToken(8, token_dim=4).eval()
    x, grid = soft_split(torch.rand(1, 3, 224, 224), 7, 4, 2)
    assert (x.shape, grid) == ((1, 3136, 147), (56, 56))
    x, grid = soft_split(torch.rand(1, 4, *grid), 3, 2, 1)
    assert (x.shape, grid) == ((1, 784, 36), (28, 28))
    assert stem(torch.rand(2, 3, 64, 48))[1] == (4, 3)


def test_soft_splits_overlap():
    picture = torch.rand(1, 3, 32, 32)
    changed = picture.clone()
    changed[..., 7, 7] += 1
    before, after = (soft_split(x, 7, 4, 2)[0] for x in (picture, changed))
    assert int((before != after).any(-1).sum()) == 4


@pytest.mark.parametrize("config", [TINY, EXACT])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 16), (23, 50), (1, 5)])
def test_any_size(config, height, width):
    features = T2TViT(config).eval()(torch.rand(2, 3, 1, height, width))
    grid = (1, -(-height // 16), -(-width // 16))
    assert features.grid == grid
    assert features.tokens.shape == (2, 1 + grid[1] * grid[2], 24)
    assert features.tokens.isfinite().all()


def test_frames_are_looked_at_one_by_one():
    model, clip = T2TViT(TINY).eval(), torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        whole, parts = model(clip), [model(frame) for frame in clip.split(1, 2)]
    assert whole.grid == (3, 2, 2)
    torch.testing.assert_close(whole.pooled, torch.stack([part.pooled for part in parts]).mean(0))
    torch.testing.assert_close(whole.tokens[:, 3 + 4 : 3 + 8], parts[1].tokens[:, 1:])
    assert model.classify(clip).shape == (2, 3)


def test_pixels_are_normalised():
    model = T2TViT(TINY).eval()
    grey = torch.tensor(model.mean).view(1, 3, 1, 1, 1).expand(1, 3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(grey).tokens, model.encode(torch.zeros(1, 3, 32, 32)).tokens)


@pytest.mark.parametrize("config", [TINY, EXACT])
def test_gradients_reach_every_parameter_and_no_constant(config):
    model = T2TViT(config)
    model.classify(torch.rand(2, 3, 1, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert "pos_embed" not in dict(model.named_parameters())


@pytest.mark.parametrize("config", [TINY, EXACT])
def test_bf16_is_near_float32(config):
    model, pixels = T2TViT(config).eval(), torch.rand(2, 3, 1, 32, 32)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.06, rtol=0.06)


def test_the_scale_of_logits_counts():
    torch.manual_seed(1)
    plain = T2TViT(TINY).eval()
    same, other = (
        T2TViT.from_official(plain.state_dict(), heads=2, qk_scale=s).eval() for s in (12**-0.5, 5.0)
    )
    pixels = torch.rand(1, 3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(same(pixels).tokens, plain(pixels).tokens)
        assert not torch.allclose(other(pixels).tokens, plain(pixels).tokens)


def test_a_checkpoint_of_parallel_training_loads(tmp_path):
    model = T2TViT(TINY).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "t2t.pth"
    )
    again = smalti.load_official("t2t-vit", tmp_path / "t2t.pth", heads=2)
    pixels = torch.rand(1, 3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(pixels).tokens, model(pixels).tokens)


def test_refusals():
    with pytest.raises(ConfigError, match="heads"):
        T2TViTConfig(heads=5)
    with pytest.raises(ConfigError, match="multiple of 16"):
        T2TViTConfig(size=30)
    with pytest.raises(ConfigError, match="not one of this system"):
        T2TViT.from_official({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="missing"):
        T2TViT.from_official(
            {k: v for k, v in T2TViT(TINY).state_dict().items() if k != "norm.weight"}, heads=2
        )
    with pytest.raises(MediaError, match="NaN"):
        T2TViT(TINY)(torch.full((1, 3, 1, 32, 32), torch.nan))
