"""Token Transforming: one matrix for every reduction, and the many-to-many one."""

import copy

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import ConfigError, UnsupportedError
from smalti.nn.flops import block_flops, count_flops
from smalti.reducers import Assign, Context
from smalti.reducers.token_transforming import TokenTransforming, TokenTransformingConfig
from smalti.reducers.tome import ToMe

MODES = ["many-to-many", "prune", "prune-fuse", "merge", "cluster"]


def reducer(**options) -> TokenTransforming:
    return TokenTransforming(TokenTransformingConfig(**options))


def context(tokens: torch.Tensor, protected: int = 1, **more) -> Context:
    attention = torch.rand(tokens.shape[:2])
    return Context(attention=lambda queries: attention, protected=protected, **more)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("basis", ["class", "all", "last", "uniform", "diversity"])
def test_every_form_is_one_matrix_with_rows_that_sum_to_one(mode, basis):
    x, mass = torch.randn(2, 14, 6), torch.rand(2, 14) + 0.5
    found = reducer(mode=mode, basis=basis).reduce(x, context(x, mass=mass), 6)
    matrix = found.matrix()
    assert found.count == 6
    assert found.mask.all()
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 6))
    torch.testing.assert_close(matrix @ x, found.apply(x))
    torch.testing.assert_close(found.apply(x)[:, 0], x[:, 0])
    torch.testing.assert_close(found.apply(torch.ones_like(x)), torch.ones(2, 6, 6))
    if mode != "prune":
        assert found.source_map.min() >= 0
        torch.testing.assert_close(found.mass.sum(1), mass.sum(1))


def test_the_method_by_hand():
    x, keys, mass = torch.randn(1, 9, 6), torch.randn(1, 9, 4), torch.rand(1, 9) + 0.5
    attention = torch.tensor([[0.1, 0.3, 0.9, 0.2, 0.8, 0.7, 0.1, 0.2, 0.3]])
    given = Context(attention=lambda queries: attention, keys=lambda: keys, mass=mass)
    found = reducer(temperature=0.2).reduce(x, given, 3)
    chosen = torch.tensor([2, 4, 5])  # in their order, not by rank
    cosine = F.cosine_similarity(keys[0, chosen, None], keys[0, None], dim=-1)
    shares = (cosine / 0.2).softmax(0)
    torch.testing.assert_close(found.mass, (shares * mass).sum(1)[None])
    expected = (shares * mass) @ x[0] / (shares * mass).sum(1, keepdim=True)
    torch.testing.assert_close(found.apply(x)[0], expected)
    refined = torch.randn(1, 3, 6)
    torch.testing.assert_close(found.restore(refined)[0], shares.T @ refined[0])


def test_the_limits_of_temperature_are_merging_and_the_mean():
    x = torch.randn(2, 12, 8)
    given = context(x, protected=0)
    cold, merged = reducer(temperature=1e-6).reduce(x, given, 5), reducer(mode="merge").reduce(x, given, 5)
    assert isinstance(merged, Assign)
    torch.testing.assert_close(cold.matrix(), merged.matrix())
    torch.testing.assert_close(cold.restore(cold.apply(x)), merged.restore(merged.apply(x)))
    warm = reducer(temperature=1e6).reduce(x, given, 5)
    torch.testing.assert_close(warm.apply(x), x.mean(1, keepdim=True).expand(-1, 5, -1), atol=1e-4, rtol=1e-4)
    rank = torch.linalg.matrix_rank(reducer().reduce(x, given, 5).matrix())
    assert rank.tolist() == [5, 5]


def test_fusing_weighs_the_rest_by_attention():
    x, attention = torch.randn(1, 6, 3), torch.tensor([[0.5, 0.3, 0.1, 0.2, 0.9, 0.4]])
    found = reducer(mode="prune-fuse").reduce(x, Context(attention=lambda queries: attention), 4)
    torch.testing.assert_close(found.apply(x)[0, :3], x[0, [0, 4, 5]])
    torch.testing.assert_close(found.apply(x)[0, 3], (x[0, 1] * 3 + x[0, 2] + x[0, 3] * 2) / 6)
    torch.testing.assert_close(found.mass, torch.tensor([[1.0, 1.0, 1.0, 3.0]]))


def test_stacked_merging_is_one_matrix_with_mass():
    x = torch.randn(2, 20, 6)
    first = ToMe().reduce(x, Context(keys=lambda: x), 14)
    y = first.apply(x)
    second = ToMe().reduce(y, Context(keys=lambda: y, mass=first.mass), 9)
    whole = first.then(second)
    torch.testing.assert_close(second.matrix() @ first.matrix() @ x, whole.apply(x))
    torch.testing.assert_close(whole.mass, second.mass)


def test_mass_counts_when_stacked():
    x = torch.randn(2, 20, 6)
    first = reducer().reduce(x, context(x), 12)
    y = first.apply(x)
    second = reducer().reduce(y, context(y, mass=first.mass), 7)
    torch.testing.assert_close(second.mass.sum(1), torch.full((2,), 20.0))
    weighted = (second.mass[..., None] * second.apply(y)).sum(1)
    torch.testing.assert_close(weighted, x.sum(1), atol=1e-4, rtol=1e-4)  # nothing is lost


def test_restores_better_than_pruning_and_hard_merging():
    """Tokens between a few themes, as features of natural pictures lie."""
    themes = F.normalize(torch.randn(6, 32), dim=-1)
    x = (2 * torch.randn(4, 96, 6)).softmax(-1) @ themes
    given, error = context(x, protected=0), {}
    for mode in ("many-to-many", "prune", "merge"):
        found = reducer(mode=mode, metric="tokens", temperature=0.02, most=2).reduce(x, given, 24)
        error[mode] = (found.restore(found.apply(x)) - x).square().mean()
    assert error["many-to-many"] < error["merge"] < error["prune"]


def test_only_the_likest_share():
    x = torch.randn(2, 30, 8)
    found = reducer(most=2).reduce(x, context(x, protected=0), 10)
    assert ((found.matrix() > 0).sum(1) <= 2).all()
    assert found.mask.all()
    equal = torch.ones(1, 30, 8)
    assert reducer(most=2).reduce(equal, context(equal, protected=0), 10).mask.all()


@pytest.mark.parametrize("mode", MODES)
def test_equal_tokens_and_no_attention_give_no_nan(mode):
    x = torch.zeros(1, 10, 4)
    found = reducer(mode=mode).reduce(x, Context(attention=lambda queries: torch.zeros(1, 10)), 4)
    assert found.matrix().isfinite().all()
    assert found.apply(x.half()).isfinite().all()


def test_the_class_token_asks_where_there_is_one():
    asked = []

    def attention(queries: str) -> torch.Tensor:
        asked.append(queries)
        return torch.rand(1, 10)

    for protected in (1, 0):
        reducer().reduce(torch.randn(1, 10, 4), Context(attention=attention, protected=protected), 5)
    assert asked == ["class", "all"]


def test_its_own_arithmetic_is_below_three_percent():
    spent = blocks = 0
    for size in (197, 138, 97):  # DeiT-S: 70 % are left at each of three blocks
        left = 1 + round(0.7 * (size - 1))
        x, keys = torch.randn(1, size, 384), torch.randn(1, size, 64)
        given = context(x, keys=lambda keys=keys: keys)
        counted = count_flops(
            lambda x, given, left: reducer().reduce(x, given, left).apply(x), x, given, left
        )
        assert counted == (left - 1) * (size - 1) * 64 + left * size * 384
        spent, blocks = spent + counted, blocks + block_flops(size, 384)
    assert spent < 0.03 * blocks


def test_blocks_four_seven_and_ten():
    assert reducer().layers(12) == (3, 6, 9)
    assert reducer().layers(2) == (0, 1)


def test_what_means_nothing_is_refused():
    for wrong in ({"temperature": 0.0}, {"most": -1}):
        with pytest.raises(ConfigError):
            reducer(**wrong)
    with pytest.raises(ConfigError, match="at least 1"):
        reducer().reduce(torch.randn(1, 5, 2), context(torch.randn(1, 5, 2)), 0)
    with pytest.raises(UnsupportedError, match="attention"):
        reducer().reduce(torch.randn(1, 5, 2), Context(), 3)


@pytest.mark.parametrize("field", ["mode", "basis", "metric"])
def test_names_that_do_not_exist_are_refused(field):
    config = copy.copy(TokenTransformingConfig())
    object.__setattr__(config, field, "other")  # as from Python without checks of types
    with pytest.raises(ConfigError, match=f"no {field} 'other'"):
        config.__post_init__()
