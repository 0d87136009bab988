"""LookupViT: costs, grids, the scores' reuse, the way of information, video, any size."""

import dataclasses

import pytest
import torch

import smalti
from smalti.backbones.lookupvit import LookupViT, LookupViTConfig
from smalti.backbones.lookupvit_block import Gather, Infuse, LookupBlock, resize, wave_positions
from smalti.errors import ConfigError, MediaError

TINY = LookupViTConfig(24, 2, 2, 3, grid=(1, 2, 2), size=32, patch=8, classes=3)
VIDEO = dataclasses.replace(TINY, grid=(2, 2, 2), frames=4, tubelet=2)
FLOPS = {"3x3": 6.7, "5x5": 8.5, "7x7": 11.2, "10x10": 17.0}


def base(name):
    smalti.systems()  # imported before, not on the meta device
    with torch.device("meta"):
        return smalti.create("lookupvit", f"b16-{name}")


def randomised(model):
    """Weights of a size that lets every part be seen."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("name", FLOPS)
def test_multiply_adds_of_the_presets(name):
    counted = base(name).flops((1, 3, 1, 224, 224)) / 1e9
    assert counted == pytest.approx(FLOPS[name], rel=0.02)
    assert name in ("7x7", "10x10") or counted < 17.5 / 2


def test_cost_is_linear_in_lookup_tokens():
    model = base("5x5")
    small, middle, large = (model.flops((1, 3, 1, 224, side)) for side in (224, 448, 672))
    assert large - middle == middle - small


def test_one_model_takes_every_grid():
    model, pixels = LookupViT(TINY).eval(), torch.rand(1, 3, 1, 32, 32)
    for side in (1, 2, 3, 5, 7, 10):
        features = model(pixels, (1, side, side))
        assert features.tokens.shape == (1, side * side, 24)
        assert [tuple(m.shape[2:]) for m in features.pyramid] == [(1, 4, 4), (1, side, side)]
        assert model.classify(pixels, (1, side, side)).isfinite().all()


@pytest.mark.parametrize("reuse", ["logits", "probs"])
def test_the_scores_are_used_again(reuse):
    gather, infuse = Gather(24, 3), Infuse(24, 3, reuse)
    for layer in (infuse.v, infuse.proj):
        layer.weight.data = torch.eye(24)
        layer.bias.data.zero_()
    x, lookup = torch.randn(2, 4, 24), torch.randn(2, 30, 24)
    _, look = gather(x, lookup)
    constant = torch.randn(24).expand(2, 4, 24)
    told = infuse(constant, look)
    if reuse == "logits":
        torch.testing.assert_close(told, infuse.norm(constant)[:, :1].expand(2, 30, 24))
    else:
        torch.testing.assert_close(told.sum(1), 4 * infuse.norm(constant)[:, 0])


def test_logits_are_soft_maxed_over_compressed_tokens():
    gather, infuse = Gather(24, 3), Infuse(24, 3)
    x, lookup = torch.randn(2, 4, 24), torch.randn(2, 30, 24)
    _, look = gather(x, lookup)
    weights = (look.k @ look.q.mT / 8**0.5).softmax(-1)
    values = infuse.v(infuse.norm(x)).unflatten(-1, (3, 8)).transpose(1, 2)
    expected = infuse.proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(infuse(x, look), expected)


def test_compressed_tokens_learn_of_lookup_tokens_by_gathering_alone():
    block = randomised(LookupBlock(24, 2, 3))
    x, lookup = torch.randn(1, 4, 24), torch.randn(1, 30, 24)
    changed = lookup.clone()
    changed[:, 7] += torch.randn(24)
    with torch.no_grad():
        moved = block(x, changed)[0] - block(x, lookup)[0]
        assert (moved.abs().amax(-1) > 1e-5).all()
        block.gather.proj.weight.zero_()
        assert torch.equal(block(x, changed)[0], block(x, lookup)[0])


def test_lookup_tokens_do_not_see_each_other():
    block = randomised(LookupBlock(24, 2, 3))
    block.gather.proj.weight.data.zero_()
    x, lookup = torch.randn(1, 4, 24), torch.randn(1, 30, 24)
    changed = lookup.clone()
    changed[:, 7] += 1
    with torch.no_grad():
        moved = (block(x, changed)[1] - block(x, lookup)[1]).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [7]


def test_the_last_way_back_can_be_left_out():
    short = LookupViT(dataclasses.replace(TINY, infuse_last=False)).eval()
    assert short.blocks[-1].infuse is None
    full = LookupViT(TINY).eval()
    full.load_state_dict(short.state_dict(), strict=False)
    pixels = torch.rand(1, 3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(short(pixels).tokens, full(pixels).tokens)
    assert short.flops(tuple(pixels.shape)) < full.flops(tuple(pixels.shape))
    with pytest.raises(ConfigError, match="infuse_last"):
        dataclasses.replace(TINY, infuse_last=False, pooling="both")


@pytest.mark.parametrize("pooling", ["mean", "attention", "class", "both"])
@pytest.mark.parametrize("positions", ["learned", "waves"])
def test_gradients_reach_every_parameter(pooling, positions):
    model = LookupViT(dataclasses.replace(TINY, pooling=pooling, positions=positions))
    pixels = torch.rand(2, 3, 1, 32, 32)
    features = model(pixels)
    assert features.tokens.shape == (2, 4 + (pooling == "class"), 24)
    total = model.classify(pixels).square().sum() + sum(
        (m * torch.randn_like(m)).sum() for m in features.pyramid
    )
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("shape", [(1, 40, 24), (1, 9, 30), (3, 32, 32), (8, 17, 33)])
@pytest.mark.parametrize("config", [TINY, VIDEO])
def test_any_size_and_length(config, shape):
    features = LookupViT(config).eval()(torch.rand(2, 3, *shape))
    grid = (-(-shape[0] // config.tubelet), -(-shape[1] // 8), -(-shape[2] // 8))
    assert features.grid == config.grid
    assert tuple(features.pyramid[0].shape) == (2, 24, *grid)
    assert features.pooled.isfinite().all()


def test_positions_and_tokens_are_resized_as_pictures_are():
    maps = torch.randn(2, 3, 1, 14, 14)
    flat = torch.nn.functional.interpolate(maps[:, :, 0], (5, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(maps, (1, 5, 7))[:, :, 0], flat)
    assert resize(maps, (1, 14, 14)) is maps


def test_wave_positions_tell_every_place():
    table = wave_positions(5, 6, 16)[0, :, 0].flatten(1)
    assert torch.cdist(table.T, table.T).add(torch.eye(30) * 9).min() > 0.1
    with pytest.raises(ConfigError, match="multiple of 4"):
        wave_positions(2, 2, 6)


@pytest.mark.parametrize("reuse", ["logits", "probs"])
def test_bf16_is_near_float32(reuse):
    model = LookupViT(dataclasses.replace(TINY, reuse=reuse)).eval()
    pixels = torch.rand(2, 3, 1, 32, 32)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.06, rtol=0.06)


def test_a_checkpoint_without_positions_must_be_told_its_size():
    state = {"to_patches.1.weight": torch.zeros(24, 3 * 8 * 8, 3, 3)}
    with pytest.raises(ConfigError, match="size="):
        LookupViT.from_official(state)
    with pytest.raises(ConfigError, match=r"layers\.0\.1\.1"):
        LookupViT.from_official(state | {"pos_embedding": torch.zeros(16, 24)})


def test_refusals():
    with pytest.raises(ConfigError, match="heads"):
        LookupViTConfig(heads=5)
    with pytest.raises(ConfigError, match="5 heads"):
        Gather(24, 5)
    with pytest.raises(ConfigError, match="cannot be cut"):
        LookupViTConfig(size=100)
    with pytest.raises(ConfigError, match="odd"):
        LookupViTConfig(patch_kernel=2)
    with pytest.raises(ConfigError, match="grid"):
        LookupViTConfig(grid=(1, 0, 2))
    with pytest.raises(ConfigError, match="grid"):
        LookupViT(TINY)(torch.rand(1, 3, 1, 32, 32), (0, 2, 2))
    with pytest.raises(ConfigError, match="not one of this system"):
        LookupViT.from_official({"weight": torch.zeros(1)})
    with pytest.raises(MediaError, match="NaN"):
        LookupViT(TINY)(torch.full((1, 3, 1, 32, 32), torch.nan))
