"""STViT on DeiT: counts of tokens and arithmetic, local centres, recovery."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import smalti
from smalti.backbones.stvit import SpatialCentres, STViT, STViTConfig
from smalti.errors import ConfigError

TINY = STViTConfig(dim=16, heads=2, depth=6, base=1, side=2, image_size=32, patch=4, classes=5)


def arithmetic(model: STViT) -> float:
    """Multiply-adds of a picture of 224: linear layers as counted, attention by its formula."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 1, 224, 224))
    config = model.config
    image, few = 196, config.side**2
    products = config.base * image**2 + config.clustering * few * (image + few) + len(model.rest) * few**2
    counted = {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}
    linear = sum(v for k, v in counted.items() if "attention" not in k and "bmm" not in k)
    return linear / 2 + 2 * config.dim * products


def test_arithmetic_of_the_small_model_is_the_papers():
    with torch.device("meta"):
        model = STViT()
        plain = STViT(STViTConfig(base=10, clustering=2))
    assert len(model.base) == 4
    assert len(model.rest) == 6
    assert arithmetic(model) / 1e9 == pytest.approx(1.91, abs=0.01)
    assert arithmetic(plain) > arithmetic(model)


def test_the_last_blocks_run_on_semantic_tokens():
    model = STViT(TINY).eval()
    seen = []
    for block in (*model.base, *model.rest):
        block.register_forward_hook(lambda _m, given, _o: seen.append(given[0].shape[1]))
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 3, 32, 32))
        assert model.features(torch.rand(2, 3, 3, 32, 32)).shape == (2, 12, 16)
    assert logits.shape == (2, 5)
    assert seen[:4] == [64, 4, 4, 4]


@pytest.mark.parametrize("pooling", ["max", "mean", "masked"])
def test_first_centres_are_local(pooling):
    centres = SpatialCentres(8, 4, pooling, offset=False)
    x = torch.randn(1, 14, 14, 8)
    changed = x.clone()
    changed[:, :3, :3] += 5
    same = (centres(x) == centres(changed)).all(-1)[0]
    if pooling != "masked":  # of which rounding may differ everywhere
        assert same.tolist() == [False] + [True] * 15
    near = (centres(x) - centres(changed)).detach().abs().amax(-1)[0]
    assert float(near[0]) > 0.1
    assert float(near[1:].max()) < 1e-5


def test_offsets_begin_at_rest_and_move():
    torch.manual_seed(1)
    moving, still = SpatialCentres(8, 4, "mean", True), SpatialCentres(8, 4, "mean")
    x = torch.randn(2, 14, 14, 8)
    torch.testing.assert_close(moving(x), still(x), atol=1e-5, rtol=1e-5)
    torch.nn.init.normal_(moving.offset.weight)
    assert not torch.allclose(moving(x), still(x), atol=1e-2)


def test_global_centres_matter_only_where_asked():
    torch.manual_seed(0)
    model = STViT(TINY).eval()
    x = model.tokens(torch.rand(1, 3, 1, 32, 32))
    before = model.semantic(x)
    with torch.no_grad():
        model.global_centres += 1
    assert not torch.allclose(model.semantic(x), before)
    plain = STViT(STViTConfig(**{**vars(TINY), "global_centres": False}))
    assert not plain.global_centres.requires_grad
    assert float(plain.global_centres.abs().sum()) == 0


def test_recovery_gives_every_patch_a_token():
    model = smalti.create("stvit", room="backbones", **{**vars(TINY), "recover": True}).eval()
    with torch.no_grad():
        assert model.features(torch.rand(1, 3, 2, 32, 40), dense=True).shape == (1, 2 * 80, 16)
    with pytest.raises(ConfigError, match="recover=True"):
        STViT(TINY).features(torch.rand(1, 3, 1, 32, 32), dense=True)
    with pytest.raises(ConfigError, match="whole patches"):
        STViT(TINY)(torch.rand(1, 3, 1, 33, 32))
