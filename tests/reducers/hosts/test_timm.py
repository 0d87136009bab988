"""Reducers in timm's models."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import smalti
from smalti.errors import ConfigError, UnsupportedError
from tests.reducers.hosts.checks import Twins
from tests.reducers.hosts.families import TIMM, build, vit

pytest.importorskip("timm")
FAMILIES = pytest.mark.parametrize("family", TIMM)


def pixels(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@FAMILIES
def test_keeping_all_changes_nothing_and_undo_gives_the_model_back(family):
    model = build(TIMM[family])
    x, keys = pixels(), list(model.state_dict())
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    hooks = {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()}
    with torch.no_grad():
        whole = model(x)
        for name in ("tome", "uniform"):
            with smalti.reduce(model, name, keep=1.0):
                torch.testing.assert_close(model(x), whole, atol=1e-6, rtol=1e-6)
        with smalti.reduce(model, "tome", r=6) as handle:
            fewer = model(x)
            assert handle.counts[-1] == handle.reduction.size - 24
            assert list(model.state_dict()) == keys
            assert not torch.allclose(fewer, whole)
        assert torch.equal(model(x), whole)
    for name, module in model.named_modules():
        assert set(module.__dict__) == set(before[name])
        assert len(module._forward_hooks) + len(module._forward_pre_hooks) == hooks[name]


@FAMILIES
@pytest.mark.parametrize("place", ["inside", "after"])
def test_merging_equal_tokens_is_exact(family, place):
    model = build(TIMM[family]).double()
    if family in ("eva-rope", "dinov3"):
        pytest.skip("rotations tell equal tokens apart")
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()  # every patch the same
        if getattr(model, "pos_embed", None) is not None:
            model.pos_embed.zero_()
        whole = model(pixels().double())
        reducer = Twins()
        reducer.place = place
        with smalti.reduce(model, reducer, r=9, layers=[0, 1, 2]) as handle:
            torch.testing.assert_close(model(pixels().double()), whole, atol=1e-6, rtol=1e-6)
            assert handle.counts[-1] == handle.reduction.size - 27
            assert handle.reduction.mass.max() > 10


@FAMILIES
@pytest.mark.parametrize("reducer", ["tome", "random", "pool", "composed"])
def test_intermediate_features_have_all_their_tokens(family, reducer):
    model = build(TIMM[family])
    options = {"criterion": "attention"} if reducer == "composed" else {}
    with torch.no_grad(), smalti.reduce(model, reducer, keep=0.4, **options):
        final, levels = model.forward_intermediates(pixels(), [1, 3])
        assert [tuple(level.shape) for level in levels] == [(2, 32, 8, 8)] * 2
        assert final.shape[1] == 64 + model.num_prefix_tokens
        assert all(level.abs().sum(1).min() > 0 for level in levels)
        features = model.forward_features(pixels())
        assert features.shape[1] < 64


def test_gradients_agree_with_and_without_checkpointing():
    model = build(vit)
    grads = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        with smalti.reduce(model, "tome", r=6):
            model(pixels()).square().sum().backward()
        grads.append(model.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


def test_a_copy_works_on_its_own_weights():
    model = build(vit)
    with torch.no_grad(), smalti.reduce(model, "tome", r=6):
        twin = copy.deepcopy(model)
        same = twin(pixels())
        torch.testing.assert_close(same, model(pixels()))
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(twin(pixels()), same)
        torch.testing.assert_close(model(pixels()), same)


def test_autocast_and_half_precision():
    model = build(vit)
    with torch.no_grad(), smalti.reduce(model, "tome", r=6):
        whole = model(pixels())
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(pixels()).float(), whole, atol=0.2, rtol=0.2)
        low = model.bfloat16()(pixels().bfloat16())
        torch.testing.assert_close(low.float(), whole, atol=0.3, rtol=0.3)


def test_accelerates_hooks_go_on_working():
    accelerate = pytest.importorskip("accelerate")

    class Count(accelerate.hooks.ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            Count.calls += 1
            return args, kwargs

    model = build(vit)
    for block in model.blocks:
        accelerate.hooks.add_hook_to_module(block, Count())
    with torch.no_grad():
        whole = model(pixels())
        for reducer in ("random", "tome"):
            Count.calls = 0
            with smalti.reduce(model, reducer, keep=0.5) as handle:
                model(pixels())
                assert handle.reduction.count < 65
            assert Count.calls == 4
        assert torch.equal(model(pixels()), whole)


@pytest.mark.parametrize("way", ["compiled", "compiled-before", "exported", "onnx"])
def test_compiled_and_exported_models_give_the_same(way):
    """In a process of its own: the checks of shapes in tests cannot be traced."""
    script = Path(__file__).with_name("traced.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script, way], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_cannot_be_reduced_is_refused():
    timm = pytest.importorskip("timm")
    with pytest.raises(UnsupportedError, match="looked for"):
        smalti.reduce(nn.Linear(3, 3), "tome", keep=0.5)
    with pytest.raises(UnsupportedError, match="ParallelScalingBlock"):
        smalti.reduce(vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock), "tome", keep=0.5)
    with pytest.raises(UnsupportedError, match="Swin"):
        smalti.reduce(timm.create_model("swin_tiny_patch4_window7_224"), "tome", keep=0.5)
    model = build(vit)
    with (
        smalti.reduce(model, "tome", keep=0.5),
        pytest.raises(ConfigError, match="reduced already"),
    ):
        smalti.reduce(model, "tome", keep=0.5)
    for bad in ({"keep": 0.0}, {"keep": float("nan")}, {"keep": -1.0}, {"r": -3}, {"flops": 2.0}, {}):
        with pytest.raises(ConfigError):
            smalti.reduce(model, "tome", **bad)
    with pytest.raises(ConfigError, match="tome"):
        smalti.reduce(model, "tom", keep=0.5)
    with (
        smalti.reduce(model, "tome", keep=0.5),
        pytest.raises(UnsupportedError, match="mask"),
    ):
        model(pixels(), attn_mask=torch.zeros(65, 65))
