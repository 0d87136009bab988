"""The learned mask: extremes, loss, gradients, hardening and other numbers of tokens."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.sparse_attention_mask import BLOCKED, SparseAttentionMask


def filled(value: float, tokens: int = 4) -> SparseAttentionMask:
    mask = SparseAttentionMask(tokens)
    torch.nn.init.constant_(mask.weight, value)
    return mask


def test_the_mask_goes_from_everything_to_itself_alone() -> None:
    torch.testing.assert_close(filled(30)(), torch.zeros(4, 4), atol=1e-3, rtol=0)
    alone = filled(-30)()
    assert torch.equal(alone.diagonal(), torch.zeros(4))
    torch.testing.assert_close(alone[0, 1:], torch.full((3,), BLOCKED))


@torch.no_grad()
def test_the_loss_is_the_mean_with_zeros_on_the_diagonal() -> None:
    mask = SparseAttentionMask(5)
    expected = (mask.weight.sigmoid() * (1 - torch.eye(5))).mean()
    torch.testing.assert_close(mask.loss(), expected)
    assert 0 <= float(filled(-50).loss()) < 1e-6
    assert float(filled(50).loss()) == pytest.approx(12 / 16)
    assert (filled(-1).density(), filled(1).density()) == (0.0, 1.0)


def test_a_soft_mask_learns_and_a_hard_one_does_not() -> None:
    mask = SparseAttentionMask(4)
    mask().sum().backward()
    assert mask.weight.grad is not None
    assert mask.weight.grad.any()
    soft = mask.entries()
    mask.harden()
    hard = mask.entries()
    assert torch.equal(hard, (soft >= 0.5).float())
    assert not hard.requires_grad
    assert not mask.weight.requires_grad


def test_a_mask_in_bf16_is_computed_in_float32() -> None:
    assert SparseAttentionMask(4).to(torch.bfloat16)().dtype == torch.float32


def test_the_diagonal_of_a_larger_mask_holds_the_small_one() -> None:
    mask = SparseAttentionMask(3)
    grown = mask.expand(6)
    assert torch.equal(grown.weight[:3, :3], mask.weight)
    assert torch.equal(grown.weight[3:, 3:], mask.weight)
    assert not torch.equal(grown.weight[:3, 3:], mask.weight)
    assert grown.weight.requires_grad
    assert torch.equal(mask.expand(3).weight, mask.weight)


def test_other_ways_to_grow() -> None:
    mask = filled(0.7, 3)
    torch.testing.assert_close(mask.expand(6, "bilinear").weight, torch.full((6, 6), 0.7))
    assert mask.expand(7, "random").weight.std() > 0.5
    with pytest.raises(ConfigError, match="multiple"):
        mask.expand(7)
    with pytest.raises(ConfigError, match="choose"):
        mask.expand(6, "nearest")
