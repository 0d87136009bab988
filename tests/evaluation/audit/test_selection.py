import math

import pytest
import torch

from smalti.evaluation.audit import selection
from smalti.reducers import Assign, Gather


def test_a_token_lies_at_the_mean_place_of_its_patches() -> None:
    merged = Assign(torch.tensor([[0, 1, 1, 2, -1]]), 4)  # class token, then 2 × 2 patches; token 3 is empty
    found = selection.centres(merged.source_map, merged.count, (2, 2), prefix=1)
    assert found[0, :2].tolist() == [[0.0, 0.5], [1.0, 0.0]]
    assert found[0, 2].isnan().all()


def test_rows_columns_and_middle_tell_where_tokens_lie() -> None:
    lower_left = Gather(9, torch.tensor([[6, 3]]))  # of 3 × 3
    found = selection.centres(lower_left.source_map, 2, (3, 3), prefix=0)
    assert selection.histogram(found, 0, 3) == (0.0, 0.5, 0.5)
    assert selection.histogram(found, 1, 3) == (1.0, 0.0, 0.0)
    assert selection.middle(found, (3, 3)) == (0.75, 0.0)


def test_a_token_between_two_columns_counts_in_both() -> None:
    assert selection.histogram(torch.tensor([[[0.0, 0.5]]]), 1, 2) == (0.5, 0.5)


def test_coverage_is_the_mean_distance_to_the_nearest_token() -> None:
    corner = torch.tensor([[[0.0, 0.0], [math.nan, math.nan]]])
    assert selection.coverage(corner, (1, 4)) == pytest.approx((0 + 1 + 2 + 3) / 4)
    both = torch.tensor([[[0.0, 0.0], [0.0, 3.0]]])
    assert selection.coverage(both, (1, 4)) == pytest.approx((0 + 1 + 1 + 0) / 4)


def test_likeness_is_the_mean_cosine_of_pairs_that_are_real() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [5.0, 5.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert selection.likeness(tokens, mask) == pytest.approx(1 / 3)  # pairs: 0, 1, 0


def test_overlap_is_what_two_choices_have_in_common() -> None:
    one = torch.tensor([[True, True, False, False], [True, False, False, False]])
    other = torch.tensor([[True, False, True, False], [True, False, False, False]])
    assert selection.overlap(one, other) == pytest.approx((1 / 3 + 1) / 2)


def test_rank_correlation_sees_order_only() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert selection.rank_correlation(x, x.exp()) == pytest.approx(1)
    assert selection.rank_correlation(x, -x) == pytest.approx(-1)
    assert math.isnan(selection.rank_correlation(x, torch.ones(4)))
    scipy = pytest.importorskip("scipy.stats")
    y = torch.tensor([2.0, 2.0, 1.0, 7.0])
    assert selection.rank_correlation(x, y) == pytest.approx(scipy.spearmanr(x, y).statistic)
