"""Reducers in the vision models of transformers."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import smalti
from smalti.errors import ConfigError, UnsupportedError
from tests.reducers.hosts.checks import Trace, Twins, alike
from tests.reducers.hosts.families import TRANSFORMERS, VIDEO, build, dino, hugging, two_towers

transformers = pytest.importorskip("transformers")
FAMILIES = pytest.mark.parametrize("family", TRANSFORMERS)


def pixels(family: str = "vit", batch: int = 2, **changes) -> torch.Tensor:
    shape = (4, 3, 32, 32) if family.startswith("vi") and not family.startswith("vit") else (3, 64, 64)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(5))


def answer(output) -> torch.Tensor:
    """What a model says of the whole picture."""
    for name in ("logits", "image_embeds", "pooler_output"):
        if output.get(name) is not None:
            return output[name]
    return output.last_hidden_state[:, 0]


def vit() -> nn.Module:
    return build(TRANSFORMERS["vit"])


@FAMILIES
def test_keeping_all_changes_nothing_and_undo_gives_the_model_back(family):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    before, weights = Trace(model), {name: value.clone() for name, value in model.state_dict().items()}
    config = copy.deepcopy(model.config.to_dict())
    with torch.no_grad():
        whole = answer(model(x))
        for name in ("tome", "uniform"):
            with smalti.reduce(model, name, keep=1.0):
                torch.testing.assert_close(answer(model(x)), whole, atol=1e-6, rtol=1e-6)
        with smalti.reduce(model, "tome", r=3) as handle:
            sizes = []
            watch = handle.host.blocks[-1].register_forward_hook(
                lambda block, given, y: sizes.append(y.shape[1])
            )
            fewer = answer(model(x))
            watch.remove()
            assert sizes == [handle.counts[-1]] == [handle.reduction.size - 12]
            assert list(model.state_dict()) == before.keys
            assert not torch.allclose(fewer, whole)
        assert torch.equal(answer(model(x)), whole)
    assert Trace(model) == before
    assert model.config.to_dict() == config
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


@FAMILIES
@pytest.mark.parametrize("place", ["inside", "after"])
def test_merging_equal_tokens_is_exact(family, place):
    if family == "dinov3":
        pytest.skip("rotations tell equal tokens apart")
    model, x = alike(build(TRANSFORMERS[family]).double()), pixels(family).double()
    reducer = Twins()
    reducer.place = place
    with torch.no_grad():
        whole = answer(model(x))
        with smalti.reduce(model, reducer, r=5, layers=[0, 1, 2]) as handle:
            torch.testing.assert_close(answer(model(x)), whole, atol=1e-6, rtol=1e-6)
            assert handle.counts[-1] == handle.reduction.size - 15
            assert handle.reduction.mass.max() > 10


@pytest.mark.parametrize("family", ["vit", "dinov2-registers", "dinov3", "siglip", "videomae", "vivit"])
def test_attention_and_keys_are_those_of_the_model(family):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    model.set_attn_implementation("eager")
    seen = {}

    class Look(Twins):
        place, proportional = "after", False

        def _reduce(self, tokens, context, count):
            seen[context.layer] = context.attention_map(), context.attention("class"), context.grid
            return super()._reduce(tokens, context, count)

    with torch.no_grad(), smalti.reduce(model, Look(), r=2, layers=[0, 2]):
        attentions = model(x, output_attentions=True).attentions
    for layer in (0, 2):
        found, first, _ = seen[layer]
        torch.testing.assert_close(found, attentions[layer], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first, attentions[layer][:, :, 0].mean(1), atol=1e-5, rtol=1e-5)
    assert seen[0][2] == ((2, 4, 4) if family.startswith(("videomae", "vivit")) else (1, 8, 8))
    assert seen[2][2] is None


def test_the_grid_is_that_of_the_picture():
    model = build(TRANSFORMERS["dinov2"])
    with torch.no_grad(), smalti.reduce(model, "pool", keep=0.25) as handle:
        model(torch.randn(1, 3, 32, 128))
        assert handle.host.grid(65) == (1, 4, 16)
        assert handle.host.grid(64) is None


@pytest.mark.parametrize("name", ["tome", "random"])
@pytest.mark.parametrize("family", ["vit", "clip", "dinov3", "videomae"])
def test_hidden_states_are_as_long_as_they_were(family, name):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    with torch.no_grad():
        model(x, output_hidden_states=True)  # their hooks are older than ours
        with smalti.reduce(model, name, r=3, layers=[0, 2]) as handle:
            levels = model(x, output_hidden_states=True).hidden_states
            assert [level.shape[1] for level in levels] == [handle.reduction.size, *handle.counts]
            assert handle.counts[-1] < handle.counts[0] < handle.reduction.size


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_models_of_pictures_and_text_are_reduced_in_their_vision_tower(name):
    model = build(lambda: two_towers(name))
    inputs = {"pixel_values": pixels(), "input_ids": torch.tensor([[1, 5, 7, 2]] * 2)}
    with torch.no_grad():
        whole = model(**inputs)
        with smalti.reduce(model, "tome", r=6) as handle:
            fewer = model(**inputs, attention_mask=torch.ones(2, 4, dtype=torch.int64))
            assert handle.counts[-1] == handle.reduction.size - 24
            torch.testing.assert_close(fewer.text_embeds, whole.text_embeds, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(fewer.image_embeds, whole.image_embeds)
            features = model.get_image_features(pixels()).pooler_output
            assert torch.allclose(
                features / features.norm(dim=-1, keepdim=True), fewer.image_embeds, atol=1e-6
            )


@pytest.mark.parametrize("reducer", ["tome", "random"])
@pytest.mark.parametrize("name", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
def test_backbones_give_maps_of_all_tokens(name, reducer):
    stages = {"out_features": ["stage1", "stage4"]}
    if name == "DINOv3ViT":
        model = build(
            lambda: hugging("DINOv3ViTBackbone", config="DINOv3ViTConfig", num_register_tokens=2, **stages)
        )
    else:
        model = build(lambda: dino(f"{name}Backbone", **stages))
    with torch.no_grad():
        whole = model(pixels()).feature_maps
        with smalti.reduce(model, reducer, keep=1.0):
            for found, expected in zip(model(pixels()).feature_maps, whole, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        with smalti.reduce(model, reducer, keep=0.4) as handle:
            maps = model(pixels()).feature_maps
            assert handle.reduction.count < 40
        assert [tuple(level.shape) for level in maps] == [(2, 32, 8, 8)] * 2
        assert all(level.abs().sum(1).min() > 0 for level in maps)
        assert not torch.allclose(maps[1], whole[1])


@pytest.mark.parametrize("reducer", ["tome", "random"])
@pytest.mark.parametrize("name", ["ViT", "DeiT"])
def test_models_that_paint_pictures_get_all_tokens(name, reducer):
    model = build(lambda: hugging(f"{name}ForMaskedImageModeling", config=f"{name}Config", encoder_stride=8))
    with torch.no_grad():
        whole = model(pixels()).reconstruction
        with smalti.reduce(model, reducer, keep=0.4):
            fewer = model(pixels()).reconstruction
    assert fewer.shape == whole.shape
    assert not torch.allclose(fewer, whole)


@pytest.mark.parametrize("reducer", ["tome", "random"])
def test_masked_video_pretraining_gets_all_visible_tokens(reducer):
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }
    model = build(lambda: hugging("VideoMAEForPreTraining", config="VideoMAEConfig", **decoder, **VIDEO))
    hidden = torch.zeros(2, 32, dtype=torch.bool)
    hidden[:, ::2] = True
    with torch.no_grad():
        whole = model(pixels("videomae"), bool_masked_pos=hidden).logits
        with smalti.reduce(model, reducer, r=2) as handle:
            fewer = model(pixels("videomae"), bool_masked_pos=hidden).logits
            assert handle.reduction.size == 16
            assert handle.reduction.count < 16
    assert fewer.shape == whole.shape == (2, 16, 384)
    assert not torch.allclose(fewer, whole)


@pytest.mark.parametrize("reducer", ["tome", "random"])
@pytest.mark.parametrize("family", ["vit", "videomae", "dinov3"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_agree_with_and_without_checkpointing(family, reducer, reentrant):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    model.requires_grad_().train()
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        entered = []
        with smalti.reduce(model, reducer, r=3) as handle:
            first = handle.host.blocks[0]
            norm = next(m for m in first.modules() if isinstance(m, nn.LayerNorm))
            watch = norm.register_forward_hook(lambda *_, entered=entered: entered.append(1))
            model.zero_grad()
            answer(model(x)).square().sum().backward()
            watch.remove()
        assert len(entered) == 1 + checkpointing  # the layer was computed again
        grads.append([p.grad.clone() for p in first.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 4
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("family", ["vit", "videomae"])
def test_a_copy_works_on_its_own_weights(family):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    with torch.no_grad(), smalti.reduce(model, "tome", r=3):
        twin = copy.deepcopy(model)
        same = answer(twin(x))
        torch.testing.assert_close(same, answer(model(x)))
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(answer(twin(x)), same)
        torch.testing.assert_close(answer(model(x)), same)


@pytest.mark.parametrize("family", ["vit", "vit-eager", "siglip", "videomae"])
def test_autocast_and_half_precision(family):
    model, x = build(TRANSFORMERS[family]), pixels(family)
    with torch.no_grad(), smalti.reduce(model, "tome", r=3):
        whole = answer(model(x))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(answer(model(x)).float(), whole, atol=0.3, rtol=0.3)
        low = answer(model.bfloat16()(x.bfloat16()))
        torch.testing.assert_close(low.float(), whole, atol=0.3, rtol=0.3)


@pytest.mark.parametrize("family", ["vit", "videomae"])
def test_accelerates_hooks_go_on_working(family):
    accelerate = pytest.importorskip("accelerate")

    class Count(accelerate.hooks.ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            Count.calls += 1
            return args, kwargs

    model, x = build(TRANSFORMERS[family]), pixels(family)
    hooked = [
        m
        for m in model.modules()
        if type(m).__name__ in ("ViTLayer", "VideoMAELayer", "VideoMAESelfAttention")
    ]
    with torch.no_grad():
        plain = {}
        for reducer in ("random", "tome"):
            with smalti.reduce(model, reducer, r=3):
                plain[reducer] = answer(model(x))
        for module in hooked:
            accelerate.hooks.add_hook_to_module(module, Count())
        before, whole = Trace(model), answer(model(x))
        for reducer in ("random", "tome"):
            Count.calls = 0
            with smalti.reduce(model, reducer, r=3) as handle:
                torch.testing.assert_close(answer(model(x)), plain[reducer])
                assert handle.reduction.count <= handle.reduction.size - 9
            assert Count.calls == len(hooked)
        assert torch.equal(answer(model(x)), whole)
        assert Trace(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compiled", "compiled-before", "exported", "onnx"])
@pytest.mark.parametrize("family", ["vit", "videomae"])
def test_compiled_and_exported_models_give_the_same(way, family):
    """In a process of its own: the checks of shapes in tests cannot be traced."""
    script = Path(__file__).with_name("traced.py")
    command = [sys.executable, "-W", "ignore", script, way, "TRANSFORMERS", family]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_cannot_be_reduced_is_refused():
    model = vit()
    with smalti.reduce(model, "tome", keep=0.5):
        for again in (model, model.vit):
            with pytest.raises(ConfigError, match="reduced already"):
                smalti.reduce(again, "tome", keep=0.5)
        with pytest.raises(UnsupportedError, match="mask"):
            model(pixels(), attention_mask=torch.tensor([[1] * 60 + [0] * 5] * 2))
        with pytest.raises(UnsupportedError, match="mask"):
            model.vit(pixels(), None, None, torch.ones(2, 65))
    smalti.reduce(model, "tome", keep=0.5).undo()
    with pytest.raises(UnsupportedError, match="BertModel"):
        smalti.reduce(
            transformers.BertModel(
                transformers.BertConfig(
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    vocab_size=9,
                )
            ),
            "tome",
            keep=0.5,
        )

    class Unknown(transformers.PreTrainedModel):
        """Holds a tower, and does with its tokens what nobody knows."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.vit = model.vit

    with pytest.raises(UnsupportedError, match="looked for"):
        smalti.reduce(Unknown(), "tome", keep=0.5)


def test_attention_that_takes_no_bias_is_refused_only_where_it_is_needed():
    model = vit()
    model.config._attn_implementation = "flash_attention_2"
    with (
        torch.no_grad(),
        smalti.reduce(model, "tome", keep=0.5),
        pytest.raises(UnsupportedError, match=r"flash_attention_2.*sdpa"),
    ):
        model(pixels())


def test_a_forward_that_bypasses_the_reducer_is_noticed():
    model = vit()
    block = model.vit.layers[1]
    block.forward = type(block).forward.__get__(block)  # as some library might
    with (
        torch.no_grad(),
        smalti.reduce(model, "tome", keep=0.5),
        pytest.raises(UnsupportedError, match="bypasses"),
    ):
        model(pixels())


def test_subclasses_of_known_models_are_known():
    class Mine(transformers.ViTForImageClassification):
        pass

    config = vit().config
    model = Mine(config).eval()
    with torch.no_grad(), smalti.reduce(model, "random", keep=0.5) as handle:
        model(pixels())
        assert handle.reduction.count == 33
