"""STViT-R: official keys, any size, places of windows, detection's masks."""

import pytest
import torch

from smalti.backbones.stvit_r import STViTR, STViTRConfig, official_keys
from smalti.errors import ConfigError
from smalti.nn.dumbbell import DumbbellConfig, DumbbellStage

TINY = {"dim": 8, "depths": (1, 1, 6, 1), "heads": (1, 2, 4, 8), "classes": 5, "mlp_ratio": 2.0}
DETECTION = {"keys": "beyond", "reach": (14, 21, 27), "shortcut": True}


def official(model: STViTR) -> dict[str, torch.Tensor]:
    """Its weights under the official names."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("stem.", "patch_embed.proj.").replace(
            "stages.2.centres", "layers.2.semantic_token2"
        )
        if key.startswith("stages."):
            _, stage, rest = key.split(".", 2)
            rest = rest.removeprefix("blocks.")
            rest = rest.replace("attn.bias.table", "attn.relative_position_bias_table")
            rest = rest.replace("bias.table", "attn.relative_position_bias_table")
            rest = rest.replace("conv.", "conv_pos.proj.0.").replace("ls1.gamma", "layer_scale_1")
            rest = rest.replace("ls2.gamma", "layer_scale_2")
            key = f"layers.{stage}.blocks.{rest}"
        if key.startswith("merges."):
            _, stage, rest = key.split(".", 2)
            key = f"layers.{stage}.downsample.{rest}"
        state[key] = value
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    return state


@pytest.mark.parametrize("options", [{}, {"relative": True, "global_centres": True, "conv_positions": True}])
def test_official_keys_come_back(options):
    model = STViTR(STViTRConfig(**TINY, **options)).eval()
    again = STViTR.from_official(official(model), depths=(1, 1, 6, 1), mlp_ratio=2.0).eval()
    assert again.config == model.config
    pixels = torch.rand(1, 3, 1, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), model(pixels))
    assert set(official_keys(official(model))) == set(model.state_dict())
    with pytest.raises(ConfigError, match="no checkpoint"):
        STViTR.from_official(official(model), depths=(2, 1, 6, 1), mlp_ratio=2.0)


@pytest.mark.parametrize("options", [{}, DETECTION])
def test_any_size(options):
    model = STViTR(STViTRConfig(**TINY, **options)).eval()
    with torch.no_grad():
        maps = model.pyramid(torch.rand(1, 3, 1, 180, 250))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 45, 63), (16, 23, 32), (32, 12, 16), (64, 6, 8)]
    assert all(torch.isfinite(m).all() for m in maps)


def stage(**options) -> DumbbellStage:
    config = DumbbellConfig(mlp_ratio=2.0, layer_scale=0.5, **options)
    return DumbbellStage(config, 8, 2, (0.0,) * 6).eval()


@pytest.mark.parametrize("options", [{}, DETECTION])
def test_semantic_tokens_lie_where_their_windows_do(options):
    model = stage(**options)
    x = torch.randn(1, 28, 28, 8)
    changed = x.clone()
    changed[:, :2, :2] += 3
    with torch.no_grad():
        before, after = (model.blocks[1](maps) for maps in (x, changed))
    moved = (before - after).abs().amax(-1)[0] > 1e-6
    assert bool(moved[:3, :3].any())
    assert not bool(moved[3:, :].any())
    assert not bool(moved[:, 3:].any())


def test_padding_is_not_seen_in_detection():
    model = stage(**DETECTION)
    x = torch.randn(1, 14, 14, 8)
    with torch.no_grad():
        whole = model.blocks[1](x)
        for height, width in ((14, 13), (13, 14), (13, 13)):
            cut = model.blocks[1](x[:, :height, :width])
            assert cut.shape == whole.shape
            assert torch.isfinite(cut).all()
        tokens = model(x[:, :13, :12])
    assert tokens.shape == (1, 13, 12, 8)
    window, seen = torch.randn(4, 9, 8), torch.ones(4, 196, dtype=torch.bool)
    seen[:, 100:] = False
    keys = torch.randn(4, 196, 8)
    with torch.no_grad():
        first = model.blocks[1].read(window, keys, seen[:, None, None])
        keys[:, 100:] += 9
        torch.testing.assert_close(model.blocks[1].read(window, keys, seen[:, None, None]), first)


def test_semantic_and_recover_are_the_stage():
    model = stage()
    x = torch.randn(1, 14, 14, 8)
    with torch.no_grad():
        image = model.blocks[0](x)
        s = model.semantic(image)
        assert s.shape == (1, 6, 6, 8)
        torch.testing.assert_close(model.recover(image, s), model(x))


def test_refusals():
    with pytest.raises(ConfigError, match="image_size"):
        stage(relative=True)(torch.randn(1, 28, 28, 8))
    with pytest.raises(ConfigError, match="shortcut"):
        STViTRConfig(keys="beyond")
    with pytest.raises(ConfigError, match="units of 6"):
        STViTRConfig(depths=(2, 2, 7, 2))
