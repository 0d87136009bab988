"""Each criterion finds what it says it looks for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers import Context
from smalti.reducers.criteria import (
    CRITERIA,
    Attention,
    Question,
    Random,
    Spectral,
    criterion,
    criterion_of,
    first_members,
)
from smalti.reducers.strategies import best


def judged(name, tokens: Tensor, count: int, **given):
    return criterion_of(name).judge(tokens, Context(**given), count)


def kept(name, tokens: Tensor, count: int, **given) -> list[list[int]]:
    return best(judged(name, tokens, count, **given).scores, count).tolist()


def same_parts(found: Tensor, truth: Tensor) -> bool:
    """Whether two groupings are one, whatever the groups are called."""
    return torch.equal(
        found[..., :, None] == found[..., None, :], truth[:, None] == truth.expand_as(found)[..., None, :]
    )


def clouds(sizes: tuple[int, ...] = (7, 5, 9, 6), dim: int = 6) -> tuple[Tensor, Tensor]:
    """Two samples of planted clusters far apart, shuffled, and the cluster of every token."""
    truth = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes))]
    centres = 10 * torch.eye(len(sizes), dim)
    return centres[truth] + 0.1 * torch.randn(2, len(truth), dim), truth


def test_attention_keeps_planted_tokens() -> None:
    asked = []

    def attention(queries: str) -> Tensor:
        asked.append(queries)
        return torch.full((2, 12), 0.01).index_fill(1, torch.tensor([2, 7, 11]), 0.3)

    assert kept("attention", torch.randn(2, 12, 4), 3, attention=attention) == [[2, 7, 11]] * 2
    assert kept(Attention("last"), torch.randn(2, 12, 4), 3, attention=attention) == [[2, 7, 11]] * 2
    assert asked == ["class", "last"]


def test_a_gradient_weighs_by_the_token_it_belongs_to() -> None:
    tokens, gradient = torch.ones(1, 4, 3), torch.ones(1, 4, 3)
    tokens[0, 1], gradient[0, 1] = 100.0, 0.0  # large, but the loss does not care
    tokens[0, 2] = -5.0
    scores = judged("gradient", tokens, 2, gradient=lambda: gradient).scores
    assert scores.tolist() == [[3.0, 0.0, 15.0, 3.0]]


def test_entropy_keeps_what_is_uncertain() -> None:
    logits = torch.tensor([[[0.0, 0.0], [9.0, -9.0], [1.0, 0.0], [0.0, -math.inf]]])
    scores = judged("entropy", torch.randn(1, 4, 2), 1, logits=lambda: logits).scores[0]
    assert scores[0].item() == pytest.approx(math.log(2))
    assert scores.argsort(descending=True).tolist()[:2] == [0, 2]
    assert scores[3] == 0


def test_a_predictor_is_asked_for_its_scores() -> None:
    tokens = torch.randn(2, 9, 3)
    scores = judged("predictor", tokens, 4, predictor=lambda x: -x[..., 1]).scores
    assert torch.equal(scores, -tokens[..., 1])


def test_a_question_finds_the_token_that_answers() -> None:
    tokens = torch.randn(2, 20, 32)
    question = torch.randn(2, 32)
    tokens[:, 5], tokens[:, 13] = 3 * question, 0.1 * question + 0.01 * torch.randn(2, 32)
    assert kept("question", tokens, 2, question=question) == [[5, 13]] * 2


def test_a_question_clips_artefacts_to_the_fences() -> None:
    question = torch.eye(8)[:1]
    tokens = torch.cat([torch.eye(8)[1:], torch.eye(8)[:1]])[None]
    tokens = tokens + 0.1 * torch.rand(1, 8, 1)
    cosine = torch.cosine_similarity(tokens, question[:, None], dim=-1)
    low, high = cosine.quantile(0.25), cosine.quantile(0.75)
    scores = judged("question", tokens, 1, question=question).scores
    assert scores.max().item() == pytest.approx((high + 1.5 * (high - low)).item())
    assert scores.max() < cosine.max()
    assert torch.equal(scores.argsort(), cosine.argsort())
    unclipped = criterion_of(Question(fences=100.0)).judge(tokens, Context(question=question), 1).scores
    torch.testing.assert_close(unclipped, cosine)


def test_a_draw_hangs_on_seed_and_block_alone() -> None:
    tokens = torch.randn(3, 50, 2)
    first = judged("random", tokens, 10).scores
    torch.manual_seed(5)
    assert torch.equal(first, judged("random", tokens + 1, 20).scores)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first, judged("random", tokens, 10, layer=1).scores)
    assert not torch.equal(first, judged(Random(seed=1), tokens, 10).scores)
    drawn = torch.stack([judged(Random(seed), tokens, 10).scores[0] for seed in range(200)])
    assert (drawn.mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize(("size", "count"), [(12, 4), (12, 5), (197, 64), (7, 6), (9, 1), (5, 5)])
def test_uniform_is_evenly_spaced(size, count) -> None:
    (chosen,) = kept("uniform", torch.randn(1, size, 2), count)
    gaps = torch.tensor(chosen).diff()
    assert len(set(chosen)) == count
    assert len(set(gaps.tolist())) <= 2
    assert abs(chosen[0] - (size - 1 - chosen[-1])) <= 1  # as far from one end as from the other


def test_diversity_takes_one_of_each_before_a_second() -> None:
    tokens, truth = clouds()
    for sample in kept("diversity", tokens, 4):
        assert sorted(truth[sample].tolist()) == [0, 1, 2, 3]


def test_diversity_takes_the_farthest_next() -> None:
    angle = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 3.0])
    tokens = torch.stack([angle.cos(), angle.sin()], -1)[None]
    tokens[0, 0] *= 2  # the longest is first
    order = judged("diversity", tokens, 4).scores[0].argsort(descending=True)[:4].tolist()
    assert order == [0, 5, 3, 2] or order == [0, 5, 4, 2]


def test_bipartite_joins_twins_first() -> None:
    pairs = torch.randn(2, 6, 8)
    tokens = pairs.repeat_interleave(2, 1)
    group = judged("bipartite", tokens, 6).group
    assert group is not None
    assert same_parts(group, torch.arange(6).repeat_interleave(2))
    one_less = judged("bipartite", tokens, 11).group
    assert one_less is not None
    assert (one_less.diff() == 0).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["k-means", "k-medoids", "dpc-knn", "spectral"])
def test_planted_clusters_are_found(name) -> None:
    tokens, truth = clouds()
    judgement = judged(name, tokens, 4)
    assert judgement.group is not None
    assert same_parts(judgement.group, truth)
    centres = best(judgement.scores, 4)
    assert judgement.group.gather(1, centres).sort().values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("name", ["bipartite", "k-means", "k-medoids", "dpc-knn", "spectral"])
def test_every_group_has_a_member_also_among_equal_tokens(name) -> None:
    judgement = judged(name, torch.ones(2, 15, 4), 6)
    assert judgement.group is not None
    for group, scores in zip(judgement.group, judgement.scores, strict=True):
        assert set(group.tolist()) == set(range(6))
        assert scores.sum() == 6
        assert set(group[scores == 1].tolist()) == set(range(6))


def test_spectral_tells_rings_apart_where_k_means_cannot() -> None:
    truth = torch.arange(160) >= 40
    angle = torch.cat([torch.arange(40) / 40, torch.arange(120) / 120]) * 2 * math.pi
    rings = torch.stack([angle.cos(), angle.sin()], -1)[None] * torch.where(truth, 3.0, 1.0)[:, None]
    spectral, means = (judged(name, rings, 2).group for name in (Spectral(sigma=0.05), "k-means"))
    assert spectral is not None
    assert means is not None
    assert same_parts(spectral, truth)
    assert not same_parts(means, truth)


def test_tokens_are_compared_by_keys_where_there_are_any() -> None:
    keys, _ = clouds()
    for name in ("diversity", "bipartite", "k-means", "k-medoids", "dpc-knn", "spectral"):
        without = judged(name, torch.zeros(2, 27, 3), 4, keys=lambda: keys)
        assert torch.equal(without.scores, judged(name, keys, 4).scores)


def test_the_first_member_of_every_group() -> None:
    assert first_members(torch.tensor([[1, 0, 1, 2, 0]]), 3).tolist() == [[1, 0, 3]]


@pytest.mark.parametrize("name", [name for name, cls in CRITERIA.items() if cls.needs])
def test_what_nobody_gave_is_named(name) -> None:
    (needed,) = CRITERIA[name].needs
    with pytest.raises(UnsupportedError, match=f"needs {needed}"):
        judged(name, torch.randn(1, 6, 2), 3)


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="attention"):
        criterion_of("atention")
    with pytest.raises(ConfigError, match="twice"):
        criterion(Random)
