"""A reduction is a linear map, whatever its kind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import ConfigError
from smalti.reducers import Assign, Dense, Gather, Reduction


def gather(n: int, m: int, seed: int) -> Gather:
    torch.manual_seed(seed)
    return Gather(n, torch.stack([torch.randperm(n)[:m] for _ in range(2)]))


def assign(n: int, m: int, seed: int) -> Assign:
    torch.manual_seed(seed)
    rows = [torch.cat([torch.arange(m), torch.randint(m, (n - m,))])[torch.randperm(n)] for _ in range(2)]
    return Assign(torch.stack(rows), m, torch.rand(2, n) + 0.5)


def dense(n: int, m: int, seed: int) -> Dense:
    torch.manual_seed(seed)
    return Dense(torch.rand(2, m, n).softmax(-1))


KINDS = pytest.mark.parametrize("make", [gather, assign, dense])


@KINDS
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_apply_is_the_matrix(make, data):
    n = data.draw(st.integers(1, 12))
    m = data.draw(st.integers(1, n))
    reduction = make(n, m, n * m)
    x = torch.randn(2, n, 3)
    assert (reduction.size, reduction.count) == (n, m)
    torch.testing.assert_close(reduction.apply(x), reduction.matrix() @ x)
    assert reduction.restore(reduction.apply(x)).shape == x.shape


@pytest.mark.parametrize("first", [gather, assign, dense])
@pytest.mark.parametrize("second", [gather, assign, dense])
def test_then_is_one_after_the_other(first, second):
    a: Reduction = first(9, 6, 0)
    b = second(6, 4, 1)
    if first is assign and second is assign:  # the second averages by what each token stands for
        b = Assign(b.group, b.count, a.mass)
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(a.then(b).apply(x), b.apply(a.apply(x)))


def test_then_refuses_another_count():
    with pytest.raises(ConfigError, match="6 tokens"):
        gather(9, 6, 0).then(gather(5, 2, 0))


def test_merging_keeps_mass_and_mean():
    reduction = assign(10, 4, 0)
    x = torch.randn(2, 10, 3)
    assert reduction.weight is not None
    torch.testing.assert_close(reduction.mass.sum(1), reduction.weight.sum(1))
    before = (x * reduction.weight[..., None]).sum(1)
    after = (reduction.apply(x) * reduction.mass[..., None]).sum(1)
    torch.testing.assert_close(before, after)


def test_transforming_keeps_mass():
    torch.testing.assert_close(dense(10, 4, 0).mass.sum(1), torch.full((2,), 10.0))


def test_pruning_restores_kept_tokens_and_zeros():
    reduction = gather(6, 3, 0)
    x = torch.randn(2, 6, 2)
    back = reduction.restore(reduction.apply(x))
    kept = reduction.source_map >= 0
    assert torch.equal(back[kept], x[kept])
    assert not back[~kept].any()


def test_dropped_tokens_take_no_part_in_merging():
    reduction = Assign(torch.tensor([[0, -1, 0, 1]]), 2)
    x = torch.tensor([[[1.0], [100.0], [3.0], [7.0]]])
    assert reduction.apply(x).flatten().tolist() == [2.0, 7.0]
    assert reduction.restore(reduction.apply(x)).flatten().tolist() == [2.0, 0.0, 2.0, 7.0]
    assert reduction.mass.tolist() == [[2.0, 1.0]]


def test_identity_at_keep_one():
    x = torch.randn(2, 5, 3)
    every = torch.arange(5).expand(2, -1)
    for identity in (Gather(5, every), Assign(every, 5), Dense(torch.eye(5).expand(2, -1, -1))):
        torch.testing.assert_close(identity.apply(x), x)
        torch.testing.assert_close(identity.restore(x), x)
        assert torch.equal(identity.source_map, every)
