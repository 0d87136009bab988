"""Recall and ranks by hand."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.evaluation.retrieval import Recall, ranks, recall, text_to_video, video_to_text


def test_pairs_on_the_diagonal_are_all_found() -> None:
    perfect = Recall(100.0, 100.0, 100.0, 1.0, 1.0)
    assert text_to_video(torch.eye(12)) == perfect
    assert video_to_text(torch.eye(12)) == perfect


def test_ranks_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.3], [0.5, 0.4, 0.6], [0.0, 0.2, 0.1]])
    assert ranks(similarity, torch.arange(3)).tolist() == [1, 3, 2]
    found = text_to_video(similarity)
    assert (found.r1, found.r5, found.median, found.mean) == (pytest.approx(100 / 3), 100, 2, 2)
    assert ranks(similarity.mT, torch.arange(3)).tolist() == [1, 1, 3]
    assert video_to_text(similarity).mean == pytest.approx(5 / 3)


def test_equal_similarities_find_nothing_first() -> None:
    assert text_to_video(torch.ones(20, 20)) == Recall(0.0, 0.0, 0.0, 20.0, 20.0)


def test_the_best_of_several_captions_counts() -> None:
    similarity = torch.tensor([[0.9, 0.0], [0.1, 0.8], [0.2, 0.95], [0.95, 0.3]])
    owner = torch.tensor([0, 0, 1, 1])
    assert ranks(similarity, owner).tolist() == [1, 2, 1, 2]
    # clip 0: its best 0.9 against 0.95 of clip 1; clip 1: its best 0.95 against 0.8
    assert video_to_text(similarity, owner).mean == 1.5
    assert text_to_video(similarity, owner).r1 == 50


def test_bounds_of_recall_hold_the_bound() -> None:
    found = recall(torch.tensor([1, 5, 6, 10, 11]))
    assert (found.r1, found.r5, found.r10) == (20, 40, 80)
    assert (found.median, found.mean) == (6, 6.6)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ConfigError, match="owners"):
        text_to_video(torch.zeros(3, 2))
    with pytest.raises(ConfigError, match="caption"):
        video_to_text(torch.zeros(2, 2), torch.tensor([0, 0]))
    with pytest.raises(ConfigError, match="positions"):
        ranks(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ConfigError, match="NaN"):
        ranks(torch.full((1, 2), torch.nan), torch.tensor([0]))
    with pytest.raises(ConfigError, match="at least one"):
        recall(torch.zeros(0, dtype=torch.int64))
