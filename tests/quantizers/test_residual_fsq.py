from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.quantizers import ResidualFSQ, ResidualFSQConfig

SMALL = ResidualFSQConfig(step=1.0, opened=(2, 5, 5, 8), limits=(2, 3, 0, 1), first_limit=6)
UNEVEN = ResidualFSQConfig(step=0.7, opened=(1, 4), limits=(1, 2), first_limit=1)
CONFIGS = [SMALL, UNEVEN, ResidualFSQConfig()]
EXAMPLES = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 1 << 30)


@pytest.fixture(params=CONFIGS, ids=["small", "uneven", "default"])
def quantizer(request) -> ResidualFSQ:
    return ResidualFSQ(request.param)


def latents(quantizer: ResidualFSQ, seed: int = 0, count: int = 40) -> Tensor:
    """Some near zero, some in the middle, some far beyond every limit."""
    random = torch.Generator().manual_seed(seed)
    spread = 10 ** torch.empty(count, 1).uniform_(-2, 2, generator=random)
    return torch.randn(count, quantizer.dim, generator=random) * spread


@EXAMPLES
@given(SEEDS, st.sampled_from(CONFIGS))
def test_levels_come_back_from_their_codes(seed: int, config: ResidualFSQConfig) -> None:
    quantizer = ResidualFSQ(config)
    random = torch.Generator().manual_seed(seed)
    for stage, opened in enumerate(config.opened):
        limits = torch.tensor(
            [quantizer.limits[c] if quantizer.opens[c] == stage else 1 for c in range(opened)]
        )
        levels = (torch.rand(3, 4, opened, generator=random) * (2 * limits + 1)).long() - limits
        codes = quantizer.pack(levels, stage)
        assert torch.equal(quantizer.unpack(codes, stage), levels)
        first = quantizer.stages[stage - 1] if stage else 0
        sizes = torch.tensor(quantizer.codebook_sizes[first : quantizer.stages[stage]])
        assert ((codes >= 0) & (codes < sizes)).all()


def test_every_code_of_a_stage_is_used_by_one_set_of_levels() -> None:
    quantizer = ResidualFSQ(UNEVEN)
    for code in range(len(quantizer.codebook_sizes)):
        size = quantizer.codebook_sizes[code]
        stage = next(s for s, n in enumerate(quantizer.stages) if code < n)
        every = torch.arange(size)[:, None]
        assert torch.equal(quantizer.pack(quantizer.unpack(every, stage), stage), every)


@EXAMPLES
@given(SEEDS, st.sampled_from(CONFIGS))
def test_every_stage_halves_the_bin_that_holds_the_latent(seed: int, config: ResidualFSQConfig) -> None:
    quantizer = ResidualFSQ(config)
    z = latents(quantizer, seed)
    ids = quantizer.ids(z)
    limit = torch.tensor(quantizer.finest_limit.tolist()) + 1
    inside = z.abs() < limit * quantizer.finest_step
    bound = torch.full_like(z, math.inf)
    for stage, codes in enumerate(quantizer.stages):
        values = quantizer.lookup(ids[:, :codes])
        step = quantizer.step(stage)
        opened = torch.tensor(quantizer.opens) <= stage
        assert not values[:, ~opened].any()
        now = torch.where(values == 0, step, step / 2)
        error = (values - z).abs()
        within = inside & opened
        assert (error <= now * (1 + 1e-5))[within].all()
        assert (now <= bound)[within].all()
        assert ((values == 0) | (values.sign() == z.sign())).all()
        bound = torch.where(opened, now, bound)


def test_a_latent_beyond_its_limit_gets_the_last_bin(quantizer: ResidualFSQ) -> None:
    for far in (1e4, 1e30, math.inf):
        z = torch.full((2, quantizer.dim), far)
        z[1] *= -1
        values = quantizer.lookup(quantizer.ids(z))
        last = (quantizer.finest_limit + 0.5) * quantizer.finest_step
        torch.testing.assert_close(values, torch.stack([last, -last]).float())


@pytest.mark.parametrize("size", [0.0, -0.0, 1e-40, 1e-20, 1e-3, 1.0, 1e10, 3e38])
def test_ids_stay_in_their_codebooks_whatever_the_size(quantizer: ResidualFSQ, size: float) -> None:
    ids = quantizer.ids(torch.randn(50, quantizer.dim) * size)
    assert ids.shape[-1] == quantizer.stages[-1] == len(quantizer.codebook_sizes)
    assert ((ids >= 0) & (ids < torch.tensor(quantizer.codebook_sizes))).all()
    if size < 1e-19:
        assert not quantizer.lookup(ids).any()


def test_a_code_has_at_most_65536_values_and_groups_hold_every_open_channel(quantizer: ResidualFSQ) -> None:
    assert max(quantizer.codebook_sizes) <= 1 << 16
    for stage, opened in enumerate(quantizer.config.opened):
        assert [c for channels, _ in quantizer.groups[stage] for c in channels] == list(range(opened))


def test_the_latents_of_codes_have_these_codes(quantizer: ResidualFSQ) -> None:
    ids = quantizer.ids(latents(quantizer))
    values = quantizer.lookup(ids)
    assert torch.equal(quantizer.ids(values), ids)
    assert torch.equal(quantizer.lookup(quantizer.ids(values)), values)


def test_each_sample_is_cut_at_its_own_stage(quantizer: ResidualFSQ) -> None:
    z = latents(quantizer, count=60)
    stage = torch.arange(60) % quantizer.depth
    hard = quantizer.hard(z, stage[:, None])
    ids = quantizer.ids(z)
    for s, codes in enumerate(quantizer.stages):
        torch.testing.assert_close(
            hard[stage == s], quantizer.lookup(ids[stage == s, :codes]), rtol=1e-6, atol=0
        )


def test_forward_passes_the_gradient_straight_through(quantizer: ResidualFSQ) -> None:
    z = (torch.randn(4, 7, quantizer.dim) * 200).requires_grad_()
    out = quantizer(z)
    assert torch.equal(out.values, quantizer.lookup(out.ids))
    weight = torch.randn_like(z)
    (out.values * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert out.loss == 0


def test_usage_and_perplexity_count_the_codes_that_were_met() -> None:
    quantizer = ResidualFSQ(UNEVEN)
    z = torch.tensor([[0.0, 0, 0, 0], [9.0, 0, 0, 0], [9.0, 0, 0, 0], [-9.0, 0, 0, 0]])
    stats = quantizer(z).stats
    assert stats["usage"][0] == 1  # three levels, all met
    assert stats["perplexity"][0] == pytest.approx(2**1.5)
    assert len(stats["usage"]) == len(quantizer.codebook_sizes)
    assert stats["usage"][1] == pytest.approx(3 / quantizer.codebook_sizes[1])


def test_half_precision_latents_are_quantized_in_float32(quantizer: ResidualFSQ) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        z = (torch.randn(60, quantizer.dim) * 3).to(dtype)
        assert torch.equal(quantizer.ids(z), quantizer.ids(z.float()))


def test_a_latent_that_is_nan_is_refused_by_its_place(quantizer: ResidualFSQ) -> None:
    z = torch.zeros(2, 3, quantizer.dim)
    z[1, 2, 0] = torch.nan
    with pytest.raises(MediaError, match=r"NaN at \[1, 2, 0\]"):
        quantizer(z)


@pytest.mark.parametrize("bad", [-1, None])
def test_a_code_that_no_codebook_holds_is_refused(quantizer: ResidualFSQ, bad: int | None) -> None:
    ids = quantizer.ids(latents(quantizer))
    ids[3, -1] = quantizer.codebook_sizes[-1] if bad is None else bad
    with pytest.raises(FormatError, match=rf"id {int(ids[3, -1])} at \[3, {ids.shape[1] - 1}\]"):
        quantizer.lookup(ids)


def test_codes_must_end_with_a_stage() -> None:
    quantizer = ResidualFSQ()
    inside = next(n for n in range(1, quantizer.stages[-1]) if n not in quantizer.stages)
    ids = quantizer.ids(latents(quantizer, count=2))
    with pytest.raises(FormatError, match=f"{inside} codes a token end inside a stage"):
        quantizer.lookup(ids[:, :inside])
    more = len(quantizer.codebook_sizes) + 1
    with pytest.raises(FormatError, match=f"{more} codes a token end inside a stage"):
        quantizer.lookup(torch.cat([ids, ids], 1)[:, :more])
    assert [quantizer.depth_of(n) for n in quantizer.stages] == list(range(1, quantizer.depth + 1))


@pytest.mark.parametrize("changes", [{"limits": (2, 3)}, {"opened": (5, 2, 5, 8)}])
def test_stages_that_do_not_agree_are_refused(changes) -> None:
    with pytest.raises(ConfigError, match="must agree and ascend"):
        ResidualFSQ(dataclasses.replace(SMALL, **changes))
