"""Reducers in our own backbones of plain blocks."""

import copy

import pytest
import torch

import smalti
from smalti import registry
from smalti.backbones.t2t_vit import T2TViTConfig
from smalti.backbones.tokenformer_block import Pictures, Words
from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers.hosts import find
from smalti.reducers.hosts.smalti_backbones import KNOWN, REFUSED
from tests.reducers.hosts.checks import Trace, Twins

T2T = {"dim": 32, "depth": 4, "heads": 4, "token_dim": 8, "size": 128, "classes": 5}
FORMER = {"dim": 32, "depth": 4, "heads": 4, "tokens": (24, 24, 48)}
VIVIT = {"dim": 32, "depth": 4, "heads": 4, "temporal_depth": 1, "temporal_heads": 4, "patch": 8, "size": 64}
VIVIT |= {"frames": 4, "classes": (5,)}
FAMILIES = {
    "t2t": ("t2t-vit", T2T),
    "t2t-scaled": ("t2t-vit", T2T | {"qk_scale": 0.7}),
    "t2t-exact": ("t2t-vit", T2T | {"mixing": "transformer"}),
    "tokenformer": ("tokenformer", FORMER | {"pictures": Pictures(side=64, patch=8, classes=5)}),
    "tokenformer-softmax": (
        "tokenformer",
        FORMER | {"pictures": Pictures(side=64, patch=8, classes=5), "norm": "softmax"},
    ),
    "vivit": ("vivit-adapter", VIVIT),
    "vivit-mean": ("vivit-adapter", VIVIT | {"pooling": "mean", "frozen": False}),
}
ALL = pytest.mark.parametrize("family", FAMILIES)
TABLES = ("pos_embed", "positions", "spatial.encoder.positions")
STEMS = ("tokens_to_token.project.weight", "patches.weight", "spatial.tubelets.weight")


def build(family: str) -> torch.nn.Module:
    name, changes = FAMILIES[family]
    torch.manual_seed(0)
    model = registry.create(name, room="backbones", **changes).eval()
    with torch.no_grad():
        for parameter, tensor in model.named_parameters():
            if parameter.endswith("key_tokens"):
                tensor.mul_(50)  # scores that tell parameter tokens apart
    return model


def clip(family: str, dtype: torch.dtype = torch.float32, frames: int | None = None) -> torch.Tensor:
    side = 128 if family.startswith("t2t") else 64
    frames = frames or (4 if family.startswith("vivit") else 1)
    return torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(5), dtype=dtype)


@ALL
def test_keeping_all_changes_nothing_and_undo_gives_the_model_back(family) -> None:
    model = build(family)
    x, before = clip(family), Trace(model)
    prefix = 0 if family == "vivit-mean" else 1
    with torch.no_grad():
        whole = model(x)
        for name in ("tome", "uniform"):
            with smalti.reduce(model, name, keep=1.0):
                same = model(x)
                torch.testing.assert_close(same.tokens, whole.tokens, atol=1e-6, rtol=1e-6)
                assert same.grid == whole.grid
        for name, last in (("tome", 4), ("random", 3)):  # chance leaves the last block alone
            with smalti.reduce(model, name, r=6) as handle:
                fewer = model(x)
                assert handle.counts == tuple(64 + prefix - 6 * min(block, last) for block in (1, 2, 3, 4))
                assert handle.reduction.count == 64 + prefix - 6 * last
                assert list(model.state_dict()) == before.keys
                assert not torch.allclose(fewer.pooled, whole.pooled)
        assert torch.equal(model(x).tokens, whole.tokens)
    assert Trace(model) == before


@ALL
@pytest.mark.parametrize("place", ["inside", "after"])
def test_merging_equal_tokens_is_exact(family, place) -> None:
    exact, dtype = 1e-6, torch.float64
    if family == "tokenformer":
        exact, dtype = 5e-6, torch.float32  # in which its scores' norms are
    model = build(family).to(dtype)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in STEMS:
                tensor.zero_()  # every patch the same,
            elif name in TABLES:
                tensor[:, :-8] = 0  # but for the places of the last ones
        whole = model(clip(family, dtype)).pooled
        reducer = Twins()
        reducer.place = place
        with smalti.reduce(model, reducer, r=9, layers=[0, 1, 2]) as handle:
            found = model(clip(family, dtype)).pooled
            torch.testing.assert_close(found, whole, atol=exact, rtol=exact)
            assert handle.counts[-1] == handle.reduction.size - 27
            assert handle.reduction.mass.max() > 10
            handle.reducer.proportional = False
            assert (model(clip(family, dtype)).pooled - whole).abs().max() > 1e-5, "weights matter"


@pytest.mark.parametrize("family", ["t2t", "tokenformer"])
def test_features_of_fewer_tokens_lie_on_no_grid(family) -> None:
    model = build(family)
    with torch.no_grad(), smalti.reduce(model, "tome", counts=[50, 40, 30, 20]):
        one, several = model(clip(family)), model(clip(family, frames=3))
        assert (one.tokens.shape, one.grid, one.prefix) == ((2, 20, 32), None, 1)
        assert (several.tokens.shape, several.grid, several.prefix) == ((2, 60, 32), None, 3)
        first = model(clip(family, frames=3)[:, :, :1])
        torch.testing.assert_close(several.tokens[:, :1], first.tokens[:, :1])
        torch.testing.assert_close(several.tokens[:, 3:22], first.tokens[:, 1:])


@ALL
def test_the_grid_is_that_of_the_source(family) -> None:
    model = build(family)
    x = clip(family)[..., :32]
    with torch.no_grad(), smalti.reduce(model, "pool", keep=0.5) as handle:
        model(x)
        tokens = handle.reduction.size
        side = 8 * (x.shape[-1] * 8 // x.shape[-2])
        assert tokens - handle.host.prefix == side
        assert handle.host.grid(tokens) == (1, 8, side // 8)


@ALL
def test_queries_and_keys_are_those_of_the_attention(family) -> None:
    """A reducer that asks for the attention of the first token gets that of the model."""
    model = build(family)
    if family == "vivit-mean":
        pytest.skip("it has no first token")
    seen = {}

    class Asking(Twins):
        def _reduce(self, tokens, context, count):
            seen[context.layer] = context.attention("class"), context.keys()
            return super()._reduce(tokens, context, count)

    inputs = {}
    block = (model.spatial.encoder if family.startswith("vivit") else model).blocks[0]
    block.register_forward_pre_hook(lambda module, given: inputs.update(x=given[0]), prepend=True)
    with torch.no_grad(), smalti.reduce(model, Asking(), r=2):
        model(clip(family))
        x = inputs["x"]
        if family.startswith("tokenformer"):
            x = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=block.eps)
            q, k = (part(x).unflatten(-1, (4, 8)).transpose(1, 2) for part in (block.query, block.key))
        else:
            q, k, _ = block.attn.split(block.norm1(x))
    scale = 0.7 if family == "t2t-scaled" else 8**-0.5
    expected = (q[:, :, :1] @ k.mT * scale).softmax(-1).mean(1)[:, 0]
    torch.testing.assert_close(seen[0][0], expected)
    torch.testing.assert_close(seen[0][1], k.mean(1))


@pytest.mark.parametrize("family", ["t2t", "tokenformer", "vivit"])
def test_sizes_count_what_runs(family) -> None:
    model = build(family)
    host = find(model)
    block, x = host.blocks[0], torch.randn(1, 50, 32)
    from smalti.nn.flops import count_flops

    assert host.sizes.cost(50, 50) == count_flops(block, x)


def test_a_copy_works_on_its_own_weights_and_gradients_flow() -> None:
    model = build("t2t")
    with smalti.reduce(model, "tome", r=6):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            same = twin(clip("t2t")).pooled
            torch.testing.assert_close(same, model(clip("t2t")).pooled)
            for parameter in twin.parameters():
                parameter.mul_(0.5)
            assert not torch.allclose(twin(clip("t2t")).pooled, same)
            torch.testing.assert_close(model(clip("t2t")).pooled, same)
        model.classify(clip("t2t")).square().sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_gradients_agree_with_and_without_checkpointing() -> None:
    grads = []
    for checkpointing in (False, True):
        model = registry.create(
            "tokenformer", room="backbones", **FAMILIES["tokenformer"][1], checkpointing=checkpointing
        )
        model.load_state_dict(build("tokenformer").state_dict())
        with smalti.reduce(model.train(), "tome", r=6):
            model(clip("tokenformer")).pooled.square().sum().backward()
        grads.append(model.blocks[0].mlp.key_tokens.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


def test_other_structures_are_refused_by_name_with_the_reason() -> None:
    classes = {card.cls.__name__: card.cls for card in registry.systems("backbones")}
    assert not REFUSED.keys() & KNOWN.keys()
    for name in REFUSED:
        model = classes[name].__new__(classes[name])
        torch.nn.Module.__init__(model)
        with pytest.raises(UnsupportedError, match=f"^{name} "):
            find(model)
    with pytest.raises(UnsupportedError, match="two branches"):
        smalti.reduce(registry.create("crossvit", "crossvit_9_224", room="backbones"), "tome", keep=0.5)
    words = registry.create(
        "tokenformer", room="backbones", **FORMER, pictures=None, words=Words(vocabulary=11)
    )
    with pytest.raises(UnsupportedError, match="only the form for pictures"):
        find(words)
    with pytest.raises(UnsupportedError, match="no host knows smalti"):
        find(smalti.nn.transformer.Block(8, 2))


def test_a_reduced_model_is_not_reduced_again() -> None:
    model = build("t2t")
    with smalti.reduce(model, "tome", r=6), pytest.raises(ConfigError, match="reduced already"):
        smalti.reduce(model, "tome", r=6)
    assert T2TViTConfig(**T2T) == model.config
