import dataclasses

import pytest
import torch

import smalti
from smalti.errors import BudgetError, ConfigError, UnsupportedError
from smalti.nn.likeness import PARTITIONS
from smalti.reducers import Context
from smalti.reducers.zero_tprune import ORDERS, ZeroTPrune, ZeroTPruneConfig
from smalti.reducers.zero_tprune_search import Backbone, search

COUNTS = (187, 187, 158, 158, 158, 116, 116, 116, 71, 71, 61, 61)


def attention(batch: int = 2, heads: int = 3, size: int = 25) -> torch.Tensor:
    return torch.randn(batch, heads, size, size).mul(2).softmax(-1)


def context(graph: torch.Tensor, keys: torch.Tensor | None = None, **given) -> Context:
    given = {"protected": 1, "layer": 5} | given
    return Context(attention_map=lambda: graph, keys=None if keys is None else lambda: keys, **given)


def test_the_default_schedule_costs_what_was_reported() -> None:
    reducer = smalti.create("zero-tprune", "deit-small")
    assert reducer.counts(197, 12, 1) == COUNTS
    blocks = sum(12 * n * 384**2 + 2 * n * n * 384 for n in (197, *COUNTS[:-1]))
    total = blocks + 196 * 768 * 384 + 384 * 1000
    assert total == pytest.approx(3.06e9, abs=0.01e9)
    assert Backbone().flops(COUNTS) == total
    assert Backbone().flops() == pytest.approx(4.6e9, abs=0.05e9)


def test_equal_settings_in_all_layers_cost_about_the_same() -> None:
    uniform = smalti.create("zero-tprune", "deit-small-uniform").counts(197, 12, 1)
    assert Backbone().flops(uniform) == pytest.approx(Backbone().flops(COUNTS), rel=0.03)
    large = smalti.create("zero-tprune", "deit-small-384").counts(577, 12, 1)
    assert large[0] == 537


@pytest.mark.parametrize("layer", [0, 2, 5, 8, 10])
def test_without_a_count_the_configuration_decides(layer) -> None:
    left = (197, *COUNTS)[layer]
    tokens = torch.randn(1, left, 4)
    reducer = ZeroTPrune()
    here = context(attention(1, 2, left), tokens, layer=layer)
    assert reducer.reduce(tokens, here).count == COUNTS[layer]
    torch.testing.assert_close(
        reducer.reduce(tokens, here).index, reducer.reduce(tokens, here, COUNTS[layer]).index
    )


def test_nothing_to_remove_changes_nothing() -> None:
    reducer = ZeroTPrune(ZeroTPruneConfig(retention=(1.0,) * 5, similar=(0,) * 5))
    tokens = torch.randn(2, 25, 4)
    assert torch.equal(reducer.reduce(tokens, context(attention())).apply(tokens), tokens)
    assert reducer.reduce(tokens, context(attention(), layer=7)).count == 25
    assert reducer.counts(25, 12, 1) == (25,) * 12


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_class_token_leads_and_positions_rise(order, partition) -> None:
    reducer = ZeroTPrune(ZeroTPruneConfig(order=order, partition=partition))
    tokens, graph = torch.randn(2, 25, 4), attention()
    for count in range(max(reducer.least(25, 1), 1), 26):
        index = reducer.reduce(tokens, context(graph, tokens), count).index
        assert index.shape == (2, count)
        assert (index[:, 0] == 0).all()
        assert (index.diff(dim=1) > 0).all()


@pytest.mark.parametrize("metric", ["cosine", "dot", "manhattan", "euclidean", "minkowski3", "infinity"])
def test_every_metric_takes_the_less_important_copy_first(metric) -> None:
    tokens = torch.nn.functional.normalize(torch.randn(1, 21, 16), dim=-1)
    graph = attention(1, 2, 21)
    reducer = ZeroTPrune(ZeroTPruneConfig(order="S", metric=metric, variance=None))
    rank = reducer.importance(graph, 1, 1)[0, 1:].argsort(descending=True) + 1
    upper, lower = rank[2], rank[17]
    tokens[:, lower] = tokens[:, upper]
    index = reducer.reduce(tokens, context(graph, tokens), 20).index
    assert sorted(set(range(21)) - set(index[0].tolist())) == [int(lower)]


def test_similarity_leaves_the_upper_half_alone() -> None:
    tokens, graph = torch.randn(3, 21, 8), attention(3, 2, 21)
    reducer = ZeroTPrune(ZeroTPruneConfig(order="S"))
    upper = reducer.importance(graph, 1, 1)[:, 1:].topk(10).indices + 1
    index = reducer.reduce(tokens, context(graph, tokens), 11).index
    assert torch.equal(index[:, 1:], upper.sort(-1).values)
    with pytest.raises(ConfigError, match="similarity alone"):
        reducer.reduce(tokens, context(graph, tokens), 10)


def test_importance_keeps_what_is_looked_at() -> None:
    graph = torch.full((1, 2, 12, 12), 0.01)
    graph[..., [3, 7, 9]] = 0.3
    graph = graph / graph.sum(-1, keepdim=True)
    tokens = torch.randn(1, 12, 4)
    reducer = ZeroTPrune(ZeroTPruneConfig(order="I", variance=None))
    assert reducer.reduce(tokens, context(graph), 4).index.tolist() == [[0, 3, 7, 9]]


def planted_heads() -> tuple[torch.Tensor, list[int]]:
    """One head that looks at four tokens, and seven that look a little, and together, at four others."""
    size, planted = 40, [5, 11, 17, 23]
    graph = torch.ones(1, 8, size, size)
    graph[:, 0, :, planted] = 3.0
    graph[:, 1:, :, 24:28] = 1.4
    return graph / graph.sum(-1, keepdim=True), planted


def test_a_token_for_few_heads_survives_by_root_mean_squares_and_the_filter() -> None:
    graph, planted = planted_heads()

    def ranks(**options) -> list[int]:
        scores = ZeroTPrune(ZeroTPruneConfig(**options)).importance(graph, 1)[0]
        return sorted(scores.argsort(descending=True).argsort()[planted].tolist())

    assert ranks(variance=(0.05, 0.7)) == [0, 1, 2, 3]
    assert ranks(heads="mean", variance=None) == [4, 5, 6, 7]
    shares = ZeroTPruneConfig(variance_of="shares")
    every = ZeroTPruneConfig(variance=None)
    torch.testing.assert_close(
        ZeroTPrune(shares).importance(graph, 1), ZeroTPrune(every).importance(graph, 1)
    )


def test_a_background_cannot_outvote_an_object() -> None:
    """Thirty background tokens look at one another, six object tokens harder at themselves."""
    size, things = 37, list(range(1, 7))
    graph = torch.full((1, 2, size, size), 0.05)
    graph[:, :, 7:, 7:] = 1.0
    graph[:, :, 1:7, 1:7] = 4.0
    graph = graph / graph.sum(-1, keepdim=True)
    keys = 0.01 * torch.randn(1, size, 8)
    keys[:, 7:, 0] += 1
    keys[:, 1:7] += torch.randn(1, 6, 8)

    def kept(order) -> int:
        options = ZeroTPruneConfig(order=order, similar_share=0.5, variance=None)
        index = ZeroTPrune(options).reduce(keys, context(graph, keys), 13).index
        return len(set(index[0].tolist()) & set(things))

    assert kept("I") == 0
    assert kept("I'-S-I") == 6


def test_the_class_token_may_vote_more() -> None:
    graph = torch.full((1, 1, 16, 16), 1 / 16)
    graph[:, :, 0] = 0
    graph[:, :, 0, 9] = 1
    plain, weighed = (
        ZeroTPrune(ZeroTPruneConfig(class_vote=on)).importance(graph, 1, 1) for on in (False, True)
    )
    assert weighed[0, 9] > plain[0, 9]


@pytest.mark.parametrize("order", ORDERS)
def test_samples_do_not_see_each_other(order) -> None:
    tokens, graph = torch.randn(3, 25, 4), attention(3)
    reducer = ZeroTPrune(ZeroTPruneConfig(order=order, tolerance=1e-3))
    together = reducer.reduce(tokens, context(graph, tokens), 15).index
    for sample in range(3):
        part = slice(sample, sample + 1)
        alone = reducer.reduce(tokens[part], context(graph[part], tokens[part]), 15).index
        assert torch.equal(together[part], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_equal_tokens(dtype) -> None:
    tokens = torch.ones(2, 25, 4, dtype=dtype)
    graph = torch.full((2, 3, 25, 25), 1 / 25, dtype=dtype)
    out = ZeroTPrune().reduce(tokens, context(graph, tokens), 9).apply(tokens)
    assert out.shape == (2, 9, 4)
    assert torch.equal(out, torch.ones_like(out))


def test_pruned_tokens_and_scores_come_together() -> None:
    tokens, graph = torch.randn(2, 25, 4), attention()
    out, index, scores = ZeroTPrune().prune(tokens, graph, tokens, 12, 5, 3)
    assert torch.equal(out, tokens.gather(1, index[..., None].expand(-1, -1, 4)))
    assert scores.shape == (2, 12)
    assert (scores > 0).all()


def test_layers_stretch_over_another_depth() -> None:
    reducer = ZeroTPrune()
    assert reducer.layers(12) == (0, 2, 5, 8, 10)
    assert reducer.layers(24) == (1, 5, 11, 17, 21)
    counts = reducer.counts(197, 24, 1)
    assert sorted(set(counts), reverse=True) == [197, 187, 158, 116, 71, 61]
    assert reducer.layers(4) == (0, 1, 2)  # nothing is saved behind the last block


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": "S-I"},
        {"partition": "halves"},
        {"metric": "chebyshev"},
        {"retention": (0.5,)},
        {"retention": (0.0,) * 5},
        {"layers": (0, 2, 5, 8, 12)},
        {"iterations": (0,) * 5},
        {"similar_share": 2.0},
    ],
)
def test_options_that_do_not_fit_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        ZeroTPruneConfig(**wrong)


def test_it_needs_the_attention_map() -> None:
    with pytest.raises(UnsupportedError, match="attention_map"):
        ZeroTPrune().reduce(torch.randn(1, 8, 4), Context(protected=1), 4)


def test_the_search_stays_within_the_budget_and_gives_the_best_first() -> None:
    def evaluate(config: ZeroTPruneConfig) -> float:
        return sum(config.retention) / len(config.retention)

    trials = search(evaluate, 3.08e9, 12, seed=3)
    assert len(trials) == 12
    assert all(0.97 * 3.08e9 <= trial.flops <= 3.08e9 for trial in trials)
    assert [t.score for t in trials] == sorted((t.score for t in trials), reverse=True)
    assert trials == search(evaluate, 3.08e9, 12, seed=3)
    for trial in trials:
        counts = ZeroTPrune(trial.config).counts(197, 12, 1)
        assert Backbone().flops(counts) == trial.flops
        assert dataclasses.replace(trial.config).depth == 12
    with pytest.raises(ConfigError, match="at least one"):
        search(evaluate, 3e9, 0)


def test_a_budget_nobody_can_meet_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("smalti.reducers.zero_tprune_search.DRAWS", 50)
    with pytest.raises(BudgetError, match="0 of 3"):
        search(lambda config: 0.0, 1e8, 3)
