"""Reducers in open_clip's vision towers."""

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
from tests.reducers.hosts.families import OPEN_CLIP, batch_second, build, clip_model, clip_tower, vit

open_clip = pytest.importorskip("open_clip")
FAMILIES = pytest.mark.parametrize("family", OPEN_CLIP)
TRUNK = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "image_size": 224}


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.encode_image(x) if hasattr(model, "encode_image") else model(x)


@FAMILIES
def test_keeping_all_changes_nothing_and_undo_gives_the_model_back(family):
    model, x = build(OPEN_CLIP[family]), pixels()
    before = Trace(model)
    with torch.no_grad():
        whole = answer(model, x)
        for name in ("tome", "uniform"):
            with smalti.reduce(model, name, keep=1.0):
                torch.testing.assert_close(answer(model, x), whole, atol=1e-5, rtol=1e-5)
        with smalti.reduce(model, "tome", r=6) as handle:
            sizes = []
            last = handle.host.blocks[-1]
            watch = last.register_forward_hook(lambda block, given, y: sizes.append(tuple(y.shape)))
            fewer = answer(model, x)
            watch.remove()
            assert sizes == [(41, 2, 32) if family == "batch-second" else (2, 41, sizes[0][2])]
            assert handle.counts[-1] == handle.reduction.size - 24 == 41
            assert list(model.state_dict()) == before.keys
            assert not torch.allclose(fewer, whole)
        assert torch.equal(answer(model, x), whole)
    assert Trace(model) == before


@FAMILIES
@pytest.mark.parametrize("place", ["inside", "after"])
def test_merging_equal_tokens_is_exact(family, place):
    model, x = alike(build(OPEN_CLIP[family]).double()), pixels().double()
    reducer = Twins()
    reducer.place = place
    with torch.no_grad():
        whole = answer(model, x)
        with smalti.reduce(model, reducer, r=9, layers=[0, 1, 2]) as handle:
            torch.testing.assert_close(answer(model, x), whole, atol=1e-6, rtol=1e-6)
            assert handle.counts[-1] == handle.reduction.size - 27
            assert handle.reduction.mass.max() > 10


def test_both_orders_of_dimensions_give_the_same():
    first, second = build(clip_tower), build(batch_second)
    second.load_state_dict(first.state_dict())
    answers = []
    for model in (first, second):
        with torch.no_grad(), smalti.reduce(model, "tome", r=6):
            answers.append(model(pixels()))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["tower", "batch-second", "custom"])
def test_attention_is_that_of_the_model(family):
    """The class token's mean of values by its attention is what the attention gives for it."""
    model, seen = build(OPEN_CLIP[family]), {}

    class Look(Twins):
        place, proportional = "after", False

        def _reduce(self, tokens, context, count):
            seen["map"], seen["class"], seen["grid"] = (
                context.attention_map(),
                context.attention("class"),
                context.grid,
            )
            return super()._reduce(tokens, context, count)

    block = model.transformer.resblocks[0]
    given = []
    block.ln_1.register_forward_hook(lambda norm, args, y: given.append(y))
    with torch.no_grad(), smalti.reduce(model, Look(), r=2, layers=[0]):
        model(pixels())
        x = given[0].transpose(0, 1) if family == "batch-second" else given[0]
        q, k, _ = torch.nn.functional.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
            3, -1
        )
        q, k = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in (q, k))
        if family == "custom":
            q, k = block.attn.ln_q(q), block.attn.ln_k(k)
        expected = (q @ k.mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(seen["map"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["class"], expected[:, :, 0].mean(1), atol=1e-5, rtol=1e-5)
    assert seen["grid"] == (1, 8, 8)


@pytest.mark.parametrize("family", ["tower", "batch-second", "average", "attention-pool"])
@pytest.mark.parametrize("reducer", ["tome", "random", "pool"])
def test_intermediate_features_have_all_their_tokens(family, reducer):
    model = build(OPEN_CLIP[family])
    with torch.no_grad():
        whole = model.forward_intermediates(pixels(), [3, 1])["image_intermediates"]
        with smalti.reduce(model, reducer, keep=1.0):
            for found, expected in zip(
                model.forward_intermediates(pixels(), [3, 1])["image_intermediates"], whole, strict=True
            ):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        with smalti.reduce(model, reducer, keep=0.4):
            found = model.forward_intermediates(pixels(), [3, 1])
            assert [tuple(level.shape) for level in found["image_intermediates"]] == [(2, 32, 8, 8)] * 2
            assert all(level.abs().sum(1).min() > 0 for level in found["image_intermediates"])
            torch.testing.assert_close(found["image_features"], model(pixels()))
            early = model.forward_intermediates(pixels(), [1], stop_early=True)
            assert early["image_intermediates"][0].shape == (2, 32, 8, 8)
            assert early["image_features"].isfinite().all()


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_trunks_of_timm_go_to_their_own_host(pool):
    model = clip_model({**TRUNK, "timm_pool": "token", "timm_proj": "none"})
    model.visual.trunk = vit(class_token=pool == "token", global_pool=pool, num_classes=0)
    build(lambda: model)
    x = pixels()
    before = Trace(model)
    with torch.no_grad():
        whole = model.encode_image(x)
        for target in (model, model.visual):
            with smalti.reduce(target, "tome", r=6) as handle:
                fewer = model.encode_image(x)
                assert type(handle.host).__name__ == "TimmHost"
                assert handle.counts[-1] == handle.reduction.size - 24
                assert not torch.allclose(fewer, whole)
                found = model.visual.forward_intermediates(x, [3])
                assert found["image_intermediates"][0].shape == (2, 32, 8, 8)
                torch.testing.assert_close(found["image_features"], fewer, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.encode_image(x), whole)
    assert Trace(model) == before


@pytest.mark.parametrize("reducer", ["tome", "random"])
@pytest.mark.parametrize("family", ["tower", "batch-second"])
def test_gradients_agree_with_and_without_checkpointing(family, reducer):
    model = build(OPEN_CLIP[family]).train()
    grads = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        with smalti.reduce(model, reducer, r=6):
            model(pixels()).square().sum().backward()
        grads.append([p.grad.clone() for p in model.transformer.resblocks[0].parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_copy_works_on_its_own_weights():
    model = build(clip_tower)
    with torch.no_grad(), smalti.reduce(model, "tome", r=6):
        twin = copy.deepcopy(model)
        same = twin(pixels())
        torch.testing.assert_close(same, model(pixels()))
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(twin(pixels()), same)
        torch.testing.assert_close(model(pixels()), same)


@pytest.mark.parametrize("family", ["tower", "attention-pool"])
def test_autocast_and_half_precision(family):
    model = build(OPEN_CLIP[family])
    with torch.no_grad(), smalti.reduce(model, "tome", r=6):
        whole = model(pixels())
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(pixels()).float(), whole, atol=0.3, rtol=0.3)
        low = model.bfloat16()(pixels().bfloat16())
        torch.testing.assert_close(low.float(), whole, atol=0.3, rtol=0.3)


def test_accelerates_hooks_go_on_working():
    accelerate = pytest.importorskip("accelerate")

    class Count(accelerate.hooks.ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            Count.calls += 1
            return args, kwargs

    model, x = build(clip_tower), pixels()
    with torch.no_grad():
        plain = {}
        for reducer in ("random", "tome"):
            with smalti.reduce(model, reducer, r=6):
                plain[reducer] = model(x)
        for block in model.transformer.resblocks:
            accelerate.hooks.add_hook_to_module(block, Count())
            accelerate.hooks.add_hook_to_module(block.attn, Count())
        before, whole = Trace(model), model(x)
        for reducer in ("random", "tome"):
            Count.calls = 0
            with smalti.reduce(model, reducer, r=6):
                torch.testing.assert_close(model(x), plain[reducer])
            assert Count.calls == 8
        assert torch.equal(model(x), whole)
        assert Trace(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compiled", "compiled-before", "exported", "onnx"])
def test_compiled_and_exported_models_give_the_same(way):
    """In a process of its own: the checks of shapes in tests cannot be traced."""
    script = Path(__file__).with_name("traced.py")
    command = [sys.executable, "-W", "ignore", script, way, "OPEN_CLIP", "tower"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_text_tower_is_left_alone():
    model = build(clip_model)
    text = torch.randint(1, 99, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image, words, _ = model(pixels(), text)
        with smalti.reduce(model, "tome", r=6):
            fewer, same, _ = model(pixels(), text)
    assert torch.equal(words, same)
    assert not torch.allclose(image, fewer)


def test_what_cannot_be_reduced_is_refused():
    model = build(clip_model)
    with smalti.reduce(model, "tome", keep=0.5):
        for again in (model, model.visual):
            with pytest.raises(ConfigError, match="reduced already"):
                smalti.reduce(again, "tome", keep=0.5)
        with pytest.raises(UnsupportedError, match="mask"):
            model.visual.transformer(torch.zeros(2, 65, 64), attn_mask=torch.zeros(65, 65))
    smalti.reduce(model.visual, "tome", keep=0.5).undo()
    with pytest.raises(UnsupportedError, match="cosines"):
        smalti.reduce(clip_tower(block_type="custom", scaled_cosine_attn=True), "tome", keep=0.5)
    with pytest.raises(UnsupportedError, match="looked for"):
        smalti.reduce(clip_model({"layers": (1, 1, 1, 1), "width": 16, "head_width": 8}), "tome", keep=0.5)
    trunk = {
        **TRUNK,
        "timm_model_name": "swin_tiny_patch4_window7_224",
        "timm_pool": "",
        "timm_proj": "linear",
    }
    with pytest.raises(UnsupportedError, match="Swin"):
        smalti.reduce(clip_model(trunk), "tome", keep=0.5)
