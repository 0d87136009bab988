"""Kernel hashing: the linear form, what learning gains, gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.kernel_hash import KernelHash, Likeness, Sign, coded_attention


def clustered(samples: int = 2, heads: int = 2, tokens: int = 60, dim: int = 8) -> torch.Tensor:
    """Features of length 1 around six centres."""
    centres = torch.randn(1, heads, 6, dim)
    x = centres[:, :, torch.randint(0, 6, (tokens,))].expand(samples, -1, -1, -1)
    return F.normalize(x + 0.5 * torch.randn_like(x.contiguous()), dim=-1)


def signs(*shape: int) -> torch.Tensor:
    return torch.where(torch.rand(*shape) > 0.5, 1.0, -1.0)


@pytest.mark.parametrize("beta", [17, 32])
def test_the_linear_form_is_the_quadratic_one(beta) -> None:
    codes, values = signs(2, 3, 11, 16), torch.randn(2, 3, 11, 5)
    weights = codes @ codes.mT + beta
    assert weights.min() > 0
    assert (weights.amax(-1) == weights.diagonal(dim1=2, dim2=3)).all()
    assert (weights.diagonal(dim1=2, dim2=3) == 16 + beta).all()
    mean = weights @ values / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(coded_attention(codes, values, beta, "sum"), mean, atol=1e-5, rtol=1e-5)
    official = (codes @ codes.mT @ values + beta * values) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(coded_attention(codes, values, beta), official, atol=1e-5, rtol=1e-5)


def test_the_matrix_that_is_not_built() -> None:
    x = clustered()
    likeness, y = Likeness(x, 5, 4), torch.randn(2, 2, 60)
    full = torch.zeros(2, 2, 60, 60).scatter(-1, likeness.near, 1.0).scatter(-1, likeness.far, -1.0) * 4
    for bit in (signs(2, 2, 60), signs(2, 2, 60)):
        likeness.learned.append(bit)
        full = full - bit[..., :, None] * bit[..., None, :]
    torch.testing.assert_close(likeness.times(y), (full @ y[..., None])[..., 0], atol=1e-4, rtol=1e-4)
    y.requires_grad_()
    loss = -torch.einsum("bhn,bhnl,bhl->bh", y, full, y).mean() / (60 * 4)
    torch.testing.assert_close(likeness.loss(y), loss)
    torch.testing.assert_close(likeness.gradient(y.detach()), torch.autograd.grad(loss, y)[0])


def test_no_bit_gets_worse_by_learning() -> None:
    x = clustered()
    learned = KernelHash(2, 8, bits=8, anchors=10, rate=0.05)
    fixed = KernelHash(2, 8, bits=8, anchors=10, iterations=0)
    fixed.load_state_dict(learned.state_dict())
    anchors = x[:1, :, :10]
    before, after = fixed.fit(x, anchors), learned.fit(x, anchors)
    assert after[0] <= before[0]
    assert after.sum() < before.sum()


def test_learned_codes_find_more_neighbours_than_random_signs() -> None:
    """The ten nearest by products, sought by products of codes of 16 bits."""
    x = clustered(4, 2, 120)
    near = (x @ x.mT).topk(10, -1).indices

    def found(codes: torch.Tensor) -> float:
        guessed = (codes @ codes.mT).topk(10, -1).indices
        return (guessed[..., :, None] == near[..., None, :]).any(-1).float().mean().item()

    random = sum(found((x @ torch.randn(8, 16)).sign()) for _ in range(5)) / 5
    model = KernelHash(2, 8, rate=0.05)
    model.fit(x)
    assert found(model(x)) > random + 0.02


def test_a_gradient_passes_where_the_number_is_small() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.9, 1.5], requires_grad=True)
    y = Sign.apply(x)
    assert y.tolist() == [-1, -1, -1, 0, 1, 1]
    y.backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0]


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_few_tokens_are_enough(tokens) -> None:
    model, x = KernelHash(2, 8, bits=4, anchors=10, iterations=3), clustered(tokens=tokens)
    assert torch.isfinite(model.fit(x)).all()
    assert torch.isfinite(model(x)).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="bits"):
        KernelHash(2, 8, bits=0)
