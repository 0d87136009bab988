"""EcoFormer: sizes, learning of hashes in training, exchanged attention, official names, energy."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti.backbones.ecoformer import EcoFormer, EcoFormerConfig, swap_attention
from smalti.backbones.ecoformer_blocks import EcoFormerAttention, Hashing
from smalti.errors import ConfigError, MediaError

SMALL = EcoFormerConfig(
    (8, 12, 16, 16),
    (1, 2, 2, 4),
    (2, 2, 2, 2),
    (1, 2, 1, 1),
    hashing=Hashing(bits=6, anchors=5, neighbours=3, every=2, iterations=5),
    classes=5,
    drop_path=0.0,
)
KINDS = ("ecoformer", "softmax", "shared", "sra", "performer")


def build(kind: str = "ecoformer", **changes) -> EcoFormer:
    model = EcoFormer(dataclasses.replace(SMALL, attention=kind, **changes)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.3)  # weights that start small would hide mistakes
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (2, 40, 75), (1, 1, 1)])
def test_any_size_and_length(kind, frames, height, width) -> None:
    model = build(kind)
    with torch.no_grad():
        features = model(torch.rand(2, 3, frames, height, width))
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    assert [tuple(m.shape[2:]) for m in features.pyramid] == [(frames, *size) for size in sizes]
    assert features.grid == (frames, *sizes[-1])
    assert model.classify(features).shape == (2, 5)
    assert torch.isfinite(features.tokens).all()


def ages(model: EcoFormer) -> list[int]:
    return [int(m.age) for m in model.modules() if isinstance(m, EcoFormerAttention)]


def test_training_learns_the_hashes_when_it_is_time() -> None:
    model, pixels = build().train(), torch.rand(2, 3, 1, 32, 32)
    hashes = [m.hash for m in model.modules() if isinstance(m, EcoFormerAttention)]
    assert ages(model) == [-1] * 4
    anchors = []
    for age in (1, 2, 1):
        model(pixels)
        assert ages(model) == [age] * 4
        anchors.append(hashes[0].anchors.clone())
    assert torch.equal(anchors[0], anchors[1])
    assert not torch.equal(anchors[1], anchors[2])
    model.eval()(pixels)
    with torch.no_grad():
        model.train()(pixels)
    assert ages(model) == [1] * 4
    model.set_retrain()
    assert ages(model) == [-1] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all(kind) -> None:
    model = build(kind).train()
    model.classify(model(torch.rand(2, 3, 1, 64, 64))).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("bias", ["self", "sum"])
@pytest.mark.parametrize("shift", [False, True])
def test_options_of_the_bias(bias, shift) -> None:
    torch.manual_seed(3)
    hashing = dataclasses.replace(SMALL.hashing, bias=bias, shift=shift)
    assert hashing.beta == (8 if shift else 7)
    assert Hashing(shift=True).beta == 32
    layer, x = EcoFormerAttention(8, 2, hashing).eval(), torch.randn(1, 9, 8)
    with torch.no_grad():
        codes, values = layer.codes(x), layer.to_v(x).view(1, 9, 2, 4).transpose(1, 2)
        weights = codes @ codes.mT
        biased = values if bias == "self" else values.sum(2, keepdim=True)
        mixed = weights @ values + hashing.beta * biased
        mixed = mixed / (weights.sum(-1, keepdim=True) + 9 * hashing.beta)
        expected = layer.proj(mixed.transpose(1, 2).reshape(1, 9, 8))
        torch.testing.assert_close(layer(x, (3, 3)), expected)


def test_attention_is_exchanged() -> None:
    pixels = torch.rand(1, 3, 1, 32, 32)
    shared = build("shared")
    with torch.no_grad():
        plain = shared(pixels).tokens
        softmax = swap_attention(shared, "softmax")
        torch.testing.assert_close(softmax(pixels).tokens, plain)  # queries that are keys
        torch.testing.assert_close(swap_attention(softmax, "shared")(pixels).tokens, plain)
        hashed = swap_attention(softmax, "ecoformer")
        assert torch.equal(hashed.stages[1][0].attn.to_qk.weight, shared.stages[1][0].attn.to_qk.weight)
        assert (hashed(pixels).tokens - plain).abs().max() > 1e-3
        reduced = build("sra")
        taken = swap_attention(reduced, "softmax").stages[0][0].attn.qkv.weight
    wanted = torch.cat([reduced.stages[0][0].attn.q.weight, reduced.stages[0][0].attn.kv.weight])
    assert torch.equal(taken, wanted)
    with pytest.raises(ConfigError, match="sra"):
        swap_attention(shared, "sra")


@pytest.mark.parametrize("kind", ["ecoformer", "softmax", "shared", "sra"])
def test_official_names_load(kind) -> None:
    model, state = build(kind), {}
    for name, tensor in model.state_dict().items():
        part, number, rest = name.split(".", 2) if name.count(".") > 1 else ("", "", name)
        official = {"patches": "patch_embed", "stages": "block", "norms": "norm"}.get(part)
        name = f"{official}{int(number) + 1}.{rest}" if official else name
        name = name.replace("mlp.conv.", "mlp.dwconv.dwconv.")
        for ours, theirs in (("projection", "A"), ("mean", "mvec"), ("anchors", "anchor")):
            name = name.replace(f"attn.hash.{ours}", f"attn.fast_attention.ksh.{theirs}")
        if not name.endswith("age"):
            state[f"module.{name}"] = tensor
    state["module.block1.0.attn.fast_attention.projection_matrix"] = torch.zeros(2, 2)
    loaded, pixels = EcoFormer.from_official(state, heads=SMALL.heads).eval(), torch.rand(1, 3, 1, 32, 32)
    assert (loaded.config.attention, loaded.config.depths) == (kind, SMALL.depths)
    assert loaded.config.dims == SMALL.dims
    with torch.no_grad():
        assert torch.equal(loaded(pixels).tokens, model(pixels).tokens)
    del state["module.norm3.weight"]
    with pytest.raises(ConfigError, match=r"norms\.2\.weight"):
        EcoFormer.from_official(state, heads=SMALL.heads)


SIZES = {(64, 2, 2, 2, 2): 14.0, (64, 3, 4, 6, 3): 25.4, (64, 3, 4, 18, 3): 45.2}


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_those_of_pvtv2(size) -> None:
    """PVTv2's published counts, for its own attention."""
    config = EcoFormerConfig((64, 128, 320, 512), depths=size[1:], attention="sra")
    with torch.device("meta"):
        assert EcoFormer(config).params() / 1e6 == pytest.approx(SIZES[size], rel=0.02)


@pytest.mark.parametrize("kind", ["ecoformer", "softmax", "shared", "sra"])
def test_energy_counts_what_runs(kind) -> None:
    """By torch's counter; products with codes and distances to anchors included on both sides."""
    model, shape = build(kind, eps=1e-5), (1, 3, 1, 64, 64)
    energy = model.energy(shape)
    assert energy.joules == pytest.approx(3.7e-12 * energy.multiplications + 0.9e-12 * energy.additions)
    counted = model.flops(shape) + model.head.weight.numel()
    sums = sum(
        d * n * SMALL.hashing.bits * (kind == "ecoformer")
        for d, n, dim in zip(SMALL.depths[:3], (256, 64, 16), SMALL.dims[:3], strict=True)
        for _ in range(SMALL.heads[SMALL.dims.index(dim)])
    )
    assert energy.additions == counted - sums


PUBLISHED = {  # billions of multiplications and additions, millijoules
    ("b0", "ecoformer"): (0.54, 0.56, 2.5),
    ("b0", "softmax"): (2.02, 1.99, 9.3),
    ("b1", "ecoformer"): (2.03, 2.09, 9.4),
    ("b1", "softmax"): (5.02, 4.99, 23.1),
    ("b2", "ecoformer"): (3.85, 3.97, 17.8),
}
SHAPES = {"b0": {}, "b1": {"dims": (64, 128, 320, 512)}}
SHAPES["b2"] = SHAPES["b1"] | {"depths": (3, 4, 6, 3)}


@pytest.mark.parametrize("case", PUBLISHED, ids="-".join)
def test_energy_is_the_published_one(case) -> None:
    with torch.device("meta"):
        model = EcoFormer(EcoFormerConfig(attention=case[1], **SHAPES[case[0]]))
    energy = model.energy((1, 3, 1, 224, 224))
    found = (energy.multiplications / 1e9, energy.additions / 1e9, energy.joules * 1e3)
    assert found == pytest.approx(PUBLISHED[case], rel=0.02)


@pytest.mark.parametrize("kind", ["ecoformer", "softmax"])
def test_bf16_runs(kind) -> None:
    model, pixels = build(kind), torch.rand(1, 3, 1, 64, 64)
    with torch.no_grad():
        exact, rough = model(pixels).tokens, model.bfloat16()(pixels).tokens
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < (0.3 if kind == "ecoformer" else 0.1) * exact.norm()  # signs may flip


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MediaError, match="NaN"):
        build()(torch.full((1, 3, 1, 8, 8), torch.nan))
    with pytest.raises(ConfigError, match="stages"):
        EcoFormerConfig(depths=(1, 1))
    with pytest.raises(ConfigError, match="divide"):
        EcoFormerConfig(heads=(3, 2, 5, 8))
    with pytest.raises(ConfigError, match="no checkpoint"):
        EcoFormer.from_official({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="energy"):
        build("performer").energy((1, 3, 1, 64, 64))
