"""Pattention: order, masks, pruning, routing, growth."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.token_parameters import THETAS, Pattention


def test_growth_reaches_a_lower_loss_than_the_small_model_and_sooner_than_from_scratch() -> None:
    """Four times the parameter tokens, on a linear teacher of full rank that few cannot follow."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 16, generator=generator)
    y = x @ torch.randn(16, 16, generator=generator)

    def train(layer: Pattention, steps: int) -> list[float]:
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
        losses = []
        for _ in range(steps):
            loss = (layer(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    small = Pattention(16, 16, 16, value_std=0.1)
    plateau = train(small, 600)[-1]
    grown = train(small.grow(48), 150)
    scratch = train(Pattention(16, 16, 64, value_std=0.1), 150)
    assert grown[-1] < 0.5 * plateau
    for step in (60, 140):
        assert next(i for i, loss in enumerate(grown) if loss <= scratch[step]) < 0.8 * step


@pytest.mark.parametrize("norm", THETAS)
def test_the_order_of_parameter_tokens_does_not_matter(norm) -> None:
    layer, x = Pattention(6, 7, 11, norm), torch.randn(2, 3, 6)
    order = torch.randperm(11)
    torch.testing.assert_close(layer.prune(order)(x), layer(x))


@pytest.mark.parametrize("norm", ["l2_norm_gelu", "gelu_l2_norm"])
def test_masking_pruning_and_routing_agree(norm) -> None:
    layer, x = Pattention(6, 7, 11, norm, tau=3.0), torch.randn(2, 3, 6)
    keep = torch.tensor([0, 3, 4, 8])
    mask = torch.zeros(11, dtype=torch.bool).index_fill(0, keep, True)
    pruned = layer.prune(keep)
    assert pruned.count == 4
    torch.testing.assert_close(pruned(x), layer(x, mask))
    torch.testing.assert_close(layer.route(x, keep), layer(x, mask))
    one = layer.prune(torch.arange(10))
    torch.testing.assert_close(one(x), layer(x, torch.arange(11) < 10))


@pytest.mark.parametrize("norm", THETAS)
def test_tokens_of_zeros_give_numbers(norm) -> None:
    layer, x = Pattention(6, 7, 11, norm), torch.zeros(2, 6, requires_grad=True)
    layer(x).sum().backward()
    assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(x.grad).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="l2_norm_gelu"):
        Pattention(4, 4, 4, "l2_norm_gel")
    with pytest.raises(ConfigError, match="softmax"):
        Pattention(4, 4, 4, "softmax").grow(2)
    with pytest.raises(ConfigError, match="frozen"):
        Pattention(4, 4, 4, frozen=4)
    with pytest.raises(ConfigError, match="at least one"):
        Pattention(4, 4, 4).prune(torch.arange(0))
