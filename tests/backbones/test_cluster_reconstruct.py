"""The windowed encoder: official keys, sizes, and where it saves."""

import pytest
import torch

import smalti
from smalti.backbones.cluster_reconstruct import HourglassConfig, HourglassEncoder
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.registry import card

TINY = {
    "image_size": 32,
    "patch_size": 4,
    "dim": 12,
    "depth": 3,
    "heads": 2,
    "channels": 5,
    "window": 4,
    "global_blocks": (1,),
    "location": 1,
    "clusters": 4,
}


def encoder(**changes) -> HourglassEncoder:
    module = HourglassEncoder(HourglassConfig(**{**TINY, **changes})).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (4, 20)])
def test_every_size_has_its_map_back(size):
    with torch.no_grad():
        out = encoder()(torch.randn(2, 3, *size))
    assert out.shape == (2, 5, size[0] // 4, size[1] // 4)
    assert out.isfinite().all()


def test_as_many_clusters_as_tokens_are_the_plain_encoder():
    clustered = encoder(clusters=16, temperature=1e4)
    plain = HourglassEncoder(HourglassConfig(**{**TINY, "location": -1})).eval()
    plain.load_state_dict(clustered.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(clustered(image), plain(image), atol=1e-4, rtol=1e-4)


def test_a_whole_checkpoint_of_sam_loads():
    source = encoder()
    state = {f"image_encoder.{key}": value for key, value in source.state_dict().items()}
    loaded = HourglassEncoder.from_official({**state, "mask_decoder.x": torch.ones(1)}, **TINY)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), source(image))
    assert {"blocks.0.mlp.lin1.weight", "blocks.2.attn.rel_pos_h", "neck.3.bias"} <= set(source.state_dict())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="does not fit"):
        HourglassEncoder.from_official({"pos_embed": torch.zeros(1)}, **TINY)
    for wrong in ({"clusters": 5}, {"clusters": 25}, {"locality": 2}, {"location": 3}):
        with pytest.raises(ConfigError):
            encoder(**wrong)
    with pytest.raises(ConfigError, match="30×32"):
        encoder()(torch.randn(1, 3, 30, 32))


def test_clusters_save_arithmetic():
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert count_flops(encoder(), image) < 0.8 * count_flops(encoder(location=-1), image)


def test_presets_are_those_of_sam():
    presets = card("cluster-reconstruct", "backbones").presets
    assert set(presets) == {"vit_b", "vit_l", "vit_h"}
    assert presets["vit_h"].clusters == 81
    tiny = smalti.create("cluster-reconstruct", "vit_h", room="backbones", **TINY)
    assert tiny.config.depth == 3
