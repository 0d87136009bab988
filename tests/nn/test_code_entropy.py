from __future__ import annotations

import math

import pytest
import torch

from smalti.nn.code_entropy import ROWS, binary_entropies, entropy, softmax_entropies


def brute(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    share = logits.softmax(-1)
    return torch.stack([entropy(row) for row in share]).mean(), entropy(share.mean(0))


def test_entropy_is_in_nats_and_takes_zeros() -> None:
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25, 0.0]))) == pytest.approx(1.5 * math.log(2))


def test_chunks_of_rows_give_the_entropies_and_gradients_of_the_whole() -> None:
    found = []
    for way in ("whole", "chunks", "no gradient"):
        torch.manual_seed(3)
        x, codes, bias = torch.randn(2 * ROWS + 5, 4), torch.randn(30, 4), torch.randn(30)
        x.requires_grad_()
        codes.requires_grad_()
        with torch.set_grad_enabled(way != "no gradient"):
            pair = (
                brute((x @ codes.t() + bias) / 0.5)
                if way == "whole"
                else softmax_entropies(x, codes, bias, 0.5)
            )
        if way != "no gradient":
            (pair[0] - 2 * pair[1]).backward()
            found.append((*pair, x.grad, codes.grad))
        else:
            torch.testing.assert_close(pair, found[0][:2])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("bits", [1, 2, 7, 10])
def test_entropies_of_bits_are_those_of_the_softmax_over_all_codes(bits) -> None:
    z = torch.randn(40, bits, requires_grad=True)
    codes = 2.0 * ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1) - 1
    pair = binary_entropies(4 * z, bits)
    (pair[0] - 2 * pair[1]).backward()
    gradient, z.grad = z.grad, None
    expected = brute(2 * z @ codes.t())
    (expected[0] - 2 * expected[1]).backward()
    torch.testing.assert_close(pair, expected)
    torch.testing.assert_close(gradient, z.grad, rtol=1e-4, atol=1e-6)


def test_groups_add_up_to_an_upper_bound() -> None:
    logits = torch.randn(50, 9)
    whole, grouped = binary_entropies(logits, 9), binary_entropies(logits, 4)
    parts = [binary_entropies(part, 4)[1] for part in logits.split(4, 1)]
    torch.testing.assert_close(grouped[1], torch.stack(parts).sum())
    torch.testing.assert_close(grouped[0], whole[0])
    assert grouped[1] > whole[1]


def test_certain_bits_have_no_entropy_and_finite_gradients() -> None:
    logits = torch.tensor([[500.0, -500.0], [500.0, 500.0]], requires_grad=True)
    sample, mean = binary_entropies(logits, 2)
    (sample - mean).backward()
    assert sample == 0
    torch.testing.assert_close(mean, torch.tensor(2.0).log())
    assert torch.isfinite(logits.grad).all()
