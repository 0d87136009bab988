from __future__ import annotations

import pytest
import torch

from smalti.nn.codebook_search import COLUMNS, ROWS, highest_scores, nearest_codes

SIZES = [(1, 1, 1), (3, 5, 2), (ROWS + 7, 64, 4), (50, COLUMNS + 130, 6), (2 * ROWS, 2 * COLUMNS, 18)]


@pytest.mark.parametrize(("count", "size", "dim"), SIZES)
def test_the_nearest_code_is_that_of_the_whole_matrix(count, size, dim) -> None:
    vectors, codebook = torch.randn(count, dim), torch.randn(size, dim)
    distance = torch.cdist(vectors.double(), codebook.double())
    assert torch.equal(nearest_codes(vectors, codebook), distance.argmin(1))


def test_a_far_common_offset_costs_no_precision() -> None:
    vectors, codebook = torch.randn(300, 8) + 1000, torch.randn(200, 8) + 1000
    distance = torch.cdist(vectors.double(), codebook.double())
    assert torch.equal(nearest_codes(vectors, codebook), distance.argmin(1))


@pytest.mark.parametrize("place", [0, 63, 64, COLUMNS - 1, COLUMNS, COLUMNS + 99])
def test_every_code_can_be_found(place) -> None:
    codebook = torch.randn(COLUMNS + 100, 5)
    assert nearest_codes(codebook[place : place + 1], codebook).tolist() == [place]


def test_a_bias_counts_and_ids_have_no_gradient() -> None:
    vectors, codebook, bias = torch.randn(70, 3, requires_grad=True), torch.randn(90, 3), torch.randn(90)
    found = highest_scores(vectors, codebook, bias)
    assert torch.equal(found, (vectors @ codebook.t() + bias).argmax(1))
    assert nearest_codes(codebook, codebook.clone().requires_grad_()).tolist() == list(range(90))


def test_no_vectors_have_no_codes() -> None:
    assert nearest_codes(torch.randn(0, 3), torch.randn(5, 3)).shape == (0,)


def test_codes_are_drawn_as_often_as_their_softmax_says() -> None:
    vector, codebook = torch.randn(4), torch.randn(6, 4)
    drawn = highest_scores(vector.expand(20_000, 4), codebook, None, 0.7)
    expected = torch.softmax(codebook @ vector / 0.7, 0) * 20_000
    counts = torch.bincount(drawn, minlength=6)
    assert ((counts - expected).square() / expected).sum() < 20.5  # chi², 5 degrees, 0.1 %
