"""What holds for every registered quantizer, whatever it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from smalti import registry
from smalti.errors import ConfigError, FormatError, MediaError, UnsupportedError
from smalti.quantizers import (
    Multiscale,
    Quantizer,
    ResidualConfig,
    VectorQuantizerConfig,
    VectorwiseQuantizer,
)
from smalti.quantizers.dual import DualConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.lfq import LFQConfig

SMALL = VectorQuantizerConfig(40, 6)
GRADIENT = VectorQuantizerConfig(40, 6, learn="gradient", normalize=True, gradient="rotation", entropy=0.1)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vq", {"codebook_size": 40, "dim": 6}),
    ("vq", {"codebook_size": 130, "dim": 6, "learn": "gradient", "normalize": True, "entropy": 0.1}),
    ("vq", {"codebook_size": 40, "dim": 6, "init": "kmeans", "restart_below": 1.0, "gradient": "rotation"}),
    ("simvq", {"codebook_size": 40, "dim": 6}),
    ("ibq", {"codebook_size": 40, "dim": 6}),
    ("fsq", {"levels": (3, 4, 8, 5)}),
    ("lfq", {"bits": 7}),
    ("bsq", {"bits": 20}),
    ("residual", {"of": SMALL, "depth": 3}),
    ("residual", {"of": FSQConfig((5, 4, 3)), "depth": 2, "shrink": 0.25}),
    ("residual", {"of": LFQConfig(5), "depth": 3, "shared": True, "shrink": 0.5}),
    ("grouped", {"of": GRADIENT, "groups": 3, "disentangle": 0.1}),
    ("grouped", {"of": ResidualConfig(SMALL, 2), "groups": 2}),
    ("dual", {"codebook_size": 40, "semantic_dim": 4, "pixel_dim": 2}),
    ("variational", {"dim": 6}),
    ("variational", {"dim": 6, "of": SMALL}),
    ("multiscale", {"of": SMALL, "scales": ((1, 1), (2, 3), (4, 6)), "smooth": 0.5}),
    ("multiscale", {"of": DualConfig(40, 4, 2), "scales": ((1, 1, 1), (2, 2, 3), (2, 4, 6))}),
    ("multiscale", {"of": GRADIENT, "scales": ((1,), (3,), (12,))}),
]
NAMES = [f"{name}-{number}" for number, (name, _) in enumerate(CASES)]


@pytest.fixture(params=CASES, ids=NAMES)
def quantizer(request) -> Quantizer:
    name, changes = request.param
    return registry.create(name, room="quantizers", **changes).eval()


def latents(quantizer: Quantizer, batch: int = 3) -> Tensor:
    """In the shape that the quantizer takes."""
    if isinstance(quantizer, Multiscale):
        return torch.randn(batch, *quantizer.grid, quantizer.dim)
    return torch.randn(batch, 5, quantizer.channels)


def discrete(quantizer: Quantizer) -> Quantizer:
    if not quantizer.codebook_sizes:
        pytest.skip("continuous")
    return quantizer


def test_every_registered_quantizer_is_held_to_the_contract() -> None:
    assert {card.name for card in registry.systems("quantizers")} == {name for name, _ in CASES}


@pytest.mark.parametrize("card", registry.systems("quantizers"), ids=lambda card: card.name)
def test_every_preset_can_be_built(card) -> None:
    for preset in card.presets:
        with torch.device("meta"):
            made = registry.create(card.name, preset, room="quantizers")
        assert made.dim > 0
        assert card.paper.year > 2000


def test_lookup_undoes_forward(quantizer) -> None:
    out = discrete(quantizer)(latents(quantizer))
    assert out.values.dtype == torch.float32
    torch.testing.assert_close(quantizer.lookup(out.ids), out.values, rtol=0, atol=1e-6)
    sizes = torch.tensor(quantizer.codebook_sizes)
    assert out.ids.shape[-1] == len(sizes)
    assert ((out.ids >= 0) & (out.ids < sizes)).all()


def test_half_precision_is_quantized_in_float32(quantizer) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        z = latents(quantizer).to(dtype)
        exact = quantizer(z.float())
        for out in (quantizer(z), quantizer.to(dtype)(z)):
            assert torch.equal(out.ids, exact.ids)
            assert torch.equal(out.values, exact.values)
        with torch.autocast("cpu", dtype):
            out = quantizer(z.float())
        assert torch.equal(out.ids, exact.ids)
        assert torch.equal(out.values, exact.values)


def test_what_is_not_finite_is_refused_by_its_place(quantizer) -> None:
    z = latents(quantizer)
    place = tuple(0 for _ in z.shape[1:-1])
    z[(1, *place, 2)] = torch.nan
    with pytest.raises(MediaError, match=r"NaN at \[1, .*2\]"):
        quantizer(z)
    z[(1, *place, 2)] = -torch.inf
    with pytest.raises(MediaError, match=r"infinite at \[1, .*2\]"):
        quantizer(z)


@pytest.mark.parametrize("bad", [-1, "size"])
def test_a_code_that_no_codebook_holds_is_refused(quantizer, bad) -> None:
    ids = discrete(quantizer)(latents(quantizer)).ids.clone()
    ids[1, 0, -1] = quantizer.codebook_sizes[-1] if bad == "size" else bad
    with pytest.raises(FormatError, match=rf"id {int(ids[1, 0, -1])} at \[1, 0, "):
        quantizer.lookup(ids)
    with pytest.raises(FormatError, match="codes a token, but this quantizer takes"):
        quantizer.lookup(torch.cat([ids, ids], -1).clamp(min=0))


def test_a_wrong_count_of_channels_is_refused(quantizer) -> None:
    z = latents(quantizer)
    with pytest.raises(ConfigError, match=r"channels"):
        quantizer(torch.cat([z, z], -1))


def test_usage_and_perplexity_are_of_the_codes_met(quantizer) -> None:
    out = discrete(quantizer)(latents(quantizer))
    codes = out.ids.flatten(0, -2)
    for number, size in enumerate(quantizer.codebook_sizes):
        _, counts = codes[:, number].unique(return_counts=True)
        share = counts / len(codes)
        assert out.stats["usage"][number] == pytest.approx(len(counts) / size)
        perplexity = float(torch.exp(-(share * share.log()).sum()))
        assert float(out.stats["perplexity"][number]) == pytest.approx(perplexity, rel=1e-5)


def test_training_gives_finite_gradients_to_latents_and_all_parameters(quantizer) -> None:
    quantizer.train()
    z = latents(quantizer).requires_grad_()
    out = quantizer(z)
    weight = torch.randn_like(out.values)
    ((out.values * weight).sum() + out.loss).backward()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(z.grad).all()
    assert (z.grad.abs().sum(-1) > 0).all()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_ids_of_a_latent_do_not_depend_on_its_company(quantizer) -> None:
    z = latents(quantizer, batch=4)
    whole = quantizer(z)
    for number in range(4):
        alone = quantizer(z[number : number + 1])
        assert torch.equal(alone.ids[0], whole.ids[number])
        torch.testing.assert_close(alone.values[0], whole.values[number], rtol=0, atol=1e-6)


def test_a_saved_quantizer_gives_the_same(quantizer) -> None:
    quantizer.train()(latents(quantizer))
    other = type(quantizer)(quantizer.config)
    other.load_state_dict(quantizer.state_dict())
    z = latents(quantizer)
    first, second = quantizer.eval()(z), other.eval()(z)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.values, second.values)


def test_masked_latents_count_nowhere(quantizer) -> None:
    if not isinstance(quantizer, VectorwiseQuantizer):
        pytest.skip("takes whole maps")
    z = latents(quantizer)
    mask = torch.rand(z.shape[:-1]) < 0.5
    mask[0, 0] = True
    z[~mask] = torch.nan
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for training in (False, True):
        quantizer.train(training)
        torch.manual_seed(1)
        out, after = quantizer(z, mask), quantizer.state_dict()
        after = {name: value.clone() for name, value in after.items()}
        quantizer.load_state_dict(state)
        torch.manual_seed(1)
        kept = quantizer(z[mask])
        for name, value in quantizer.state_dict().items():
            assert torch.equal(value, after[name]), name
        quantizer.load_state_dict(state)
        assert torch.equal(out.ids[mask], kept.ids)
        assert torch.equal(out.values[mask], kept.values)
        assert torch.equal(out.loss, kept.loss)
        assert not out.values[~mask].any()
        assert not out.ids[~mask].any()
        assert all(torch.equal(value, kept.stats[name]) for name, value in out.stats.items())


def test_nothing_to_quantize_is_no_error(quantizer) -> None:
    if not isinstance(quantizer, VectorwiseQuantizer):
        pytest.skip("takes whole maps")
    z = latents(quantizer)
    for training in (False, True):
        out = quantizer.train(training)(z, torch.zeros(z.shape[:-1], dtype=torch.bool))
        assert not out.loss.isnan()
        assert not any(value.isnan().any() for value in out.stats.values())


def test_continuous_latents_have_no_ids_to_look_up() -> None:
    quantizer = registry.create("variational", room="quantizers", dim=4).eval()
    z = latents(quantizer)
    out = quantizer(z)
    assert out.ids.shape == (3, 5, 0)
    assert torch.equal(out.values, z[..., :4])
    with pytest.raises(UnsupportedError, match="no ids to look up"):
        quantizer.lookup(out.ids)
