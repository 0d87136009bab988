import itertools

import pytest
import torch

import smalti
from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers import Context, Gather
from smalti.reducers.ia_red2 import (
    IARed2,
    IARed2Config,
    Interpreter,
    bounded,
    log_probability,
    reward,
    sample,
    threshold,
)


def small(**options) -> IARed2:
    reducer = IARed2(IARed2Config(**{"dim": 16, "heads": 4, "depth": 6} | options))
    for parameter in reducer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # scores that differ
    return reducer


def test_scores_are_means_of_sigmoids_over_heads() -> None:
    interpreter = Interpreter(8, 2)
    tokens, policy = torch.randn(2, 5, 8), torch.randn(2, 8)
    norm = torch.nn.functional.layer_norm
    query = interpreter.query(norm(policy, (8,))).view(2, 1, 2, 4)
    keys = interpreter.key(norm(tokens, (8,))).view(2, 5, 2, 4)
    expected = ((query * keys).sum(-1) / 2).sigmoid().mean(-1)
    torch.testing.assert_close(interpreter(tokens, policy), expected)


def test_a_learned_policy_token_does_not_look_at_the_class_token() -> None:
    reducer, tokens = small(policy_token="learned"), torch.randn(1, 9, 16)
    other = tokens.clone()
    other[:, 0] = 0
    context = Context(protected=1)
    assert torch.equal(reducer.score(tokens, context)[:, 1:], reducer.score(other, context)[:, 1:])
    by_class = small()
    assert not torch.equal(by_class.score(tokens, context)[:, 1:], by_class.score(other, context)[:, 1:])


def test_groups_follow_the_blocks() -> None:
    reducer = IARed2()
    assert reducer.config.starts == (0, 4, 8)
    assert [reducer.group(layer) for layer in (-1, 0, 2, 3, 6, 7, 11)] == [0, 0, 0, 1, 1, 2, 2]
    assert reducer.layers(12) == (3, 7)
    uneven = IARed2Config(depth=7, groups=3)
    assert uneven.starts == (0, 3, 5)
    assert uneven.sizes == (3, 2, 2)
    assert [small(depth=7).group(start - 1) for start in uneven.starts] == [0, 1, 2]


def test_without_a_count_every_sample_keeps_what_scores_above_the_threshold() -> None:
    reducer, tokens = small(), torch.randn(4, 20, 16)
    context = Context(protected=1, layer=-1)
    reduction = reducer.reduce(tokens, context)
    kept = threshold(reducer.score(tokens, context), torch.ones(4, 20, dtype=torch.bool))
    assert isinstance(reduction, Gather)
    assert len(set(kept.sum(1).tolist())) > 1, "a ragged batch is what this tests"
    assert torch.equal(reduction.source_map >= 0, kept)
    assert torch.equal(reduction.mask.sum(1), kept.sum(1))
    assert (reduction.index[:, 0] == 0).all()


def test_tokens_of_a_group_are_among_those_of_the_one_before() -> None:
    reducer, tokens = small(), torch.randn(4, 20, 16)
    first = reducer.reduce(tokens, Context(protected=1, layer=-1))
    context = Context(protected=1, layer=1, mass=first.mass)
    for count in (None, 5):
        second = reducer.reduce(first.apply(tokens), context, count)
        whole = first.then(second)
        assert ((whole.source_map < 0) | (first.source_map >= 0)).all()
        assert second.mask.sum(1).min() >= 1
        assert second.mass.sum(1).tolist() == second.mask.sum(1).tolist()


def test_a_count_keeps_the_best() -> None:
    reducer, tokens = small(), torch.randn(3, 20, 16)
    context = Context(protected=2)
    index = reducer.reduce(tokens, context, 8).index
    best = reducer.score(tokens, context)[:, 2:].topk(6).indices + 2
    assert torch.equal(index[:, 2:], best.sort(-1).values)
    assert index[:, :2].tolist() == [[0, 1]] * 3


def test_threshold_zero_keeps_all_and_nearly_one_keeps_the_protected() -> None:
    tokens = torch.randn(2, 20, 16)
    assert small(threshold=0.0).reduce(tokens, Context(protected=1)).count == 20
    assert small(threshold=0.999).reduce(tokens, Context(protected=1)).count == 1
    assert small(threshold=0.999).reduce(tokens, Context()).count == 1


def test_exactly_one_half_drops() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.51]])
    assert threshold(scores, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[True, False, True]]


def test_equal_tokens_and_half_precision() -> None:
    reducer = small()
    for dtype in (torch.float16, torch.bfloat16):
        tokens = torch.ones(2, 10, 16, dtype=dtype)
        out = reducer.reduce(tokens, Context(protected=1), 4).apply(tokens)
        assert torch.equal(out, torch.ones(2, 4, 16, dtype=dtype))


def test_samples_do_not_see_each_other() -> None:
    reducer, tokens = small(), torch.randn(3, 20, 16)
    together = reducer.reduce(tokens, Context(protected=1)).source_map
    for number in range(3):
        alone = reducer.reduce(tokens[number : number + 1], Context(protected=1)).source_map
        assert torch.equal(together[number : number + 1], alone)


def test_a_temporal_group_drops_whole_frames() -> None:
    reducer = small(temporal=(0,))
    tokens = torch.randn(2, 1 + 8 * 5, 16)
    frames = torch.cat([torch.tensor([-1]), torch.arange(8).repeat_interleave(5)]).expand(2, -1)
    context = Context(protected=1, layer=-1, frames=frames)
    kept = (reducer.reduce(tokens, context).source_map >= 0)[:, 1:].unflatten(1, (8, 5))
    assert torch.equal(kept.any(-1), kept.all(-1))
    assert 0 < kept.sum() < kept.numel()
    exact = (reducer.reduce(tokens, context, 16).source_map >= 0)[:, 1:].unflatten(1, (8, 5))
    assert exact.all(-1).sum(1).tolist() == [3, 3]
    with pytest.raises(UnsupportedError, match="frames"):
        reducer.reduce(tokens, Context(protected=1, layer=-1))


def test_presets_and_wrong_options() -> None:
    assert smalti.create("ia-red2", "deit-small", room="reducers", depth=6).config.starts == (0, 2, 4)
    for wrong in ({"heads": 5}, {"groups": 13}, {"threshold": 1.0}, {"temporal": (3,)}):
        with pytest.raises(ConfigError):
            IARed2Config(**wrong)
    with pytest.raises(ConfigError, match="dim=8"):
        small().reduce(torch.randn(1, 4, 8), Context(protected=1), 2)


ACTIONS = torch.tensor(list(itertools.product([False, True], repeat=4)))


def expected_reward(logits: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    alive = torch.ones(16, 4, dtype=torch.bool)
    scores = logits.sigmoid().expand(16, -1)
    return (log_probability(scores, ACTIONS, alive, protected=0).exp() * table).sum()


def test_probabilities_of_all_actions_sum_to_one() -> None:
    alive = torch.ones(16, 4, dtype=torch.bool)
    scores = torch.rand(1, 4).expand(16, -1)
    total = log_probability(scores, ACTIONS, alive, protected=0).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0))
    alive[:, 2] = False
    some = log_probability(scores, ACTIONS, alive, protected=1).exp()
    expected = torch.where(ACTIONS, scores, 1 - scores)[:, [1, 3]].prod(1)
    torch.testing.assert_close(some, expected)


def test_the_drawn_gradient_is_the_exact_one_and_a_baseline_lowers_its_variance() -> None:
    table = torch.rand(16) + 2
    exact = torch.tensor([0.4, -0.3, 0.8, 0.1], requires_grad=True)
    expected_reward(exact, table).backward()
    generator = torch.Generator().manual_seed(0)
    draws = 40_000
    scores = exact.detach().sigmoid().expand(draws, -1)
    alive = torch.ones(draws, 4, dtype=torch.bool)
    actions = sample(scores, alive, generator, protected=0)
    place = torch.tensor([8, 4, 2, 1])
    gained = table[(actions * place).sum(1)]
    greedy = table[(threshold(scores[:1], alive[:1], protected=0) * place).sum()]
    logits = exact.detach().expand(draws, -1).clone().requires_grad_()
    likelihood = log_probability(logits.sigmoid(), actions, alive, protected=0)
    (slopes,) = torch.autograd.grad(likelihood.sum(), logits)
    assert exact.grad is not None
    plain, baselined = gained[:, None] * slopes, (gained - greedy)[:, None] * slopes
    torch.testing.assert_close(plain.mean(0), exact.grad, atol=0.03, rtol=0)
    torch.testing.assert_close(baselined.mean(0), exact.grad, atol=0.01, rtol=0)
    assert (baselined.var(0) < 0.3 * plain.var(0)).all()


def test_drawn_actions_follow_the_scores_and_obey_the_mask() -> None:
    scores = torch.tensor([0.0, 0.2, 0.8, 0.8]).expand(5000, -1)
    alive = torch.tensor([True, True, True, False]).expand(5000, -1)
    drawn = sample(scores, alive, torch.Generator().manual_seed(1)).float().mean(0)
    torch.testing.assert_close(drawn, torch.tensor([1.0, 0.2, 0.8, 0.0]), atol=0.03, rtol=0)


def test_bounded_scores_stay_away_from_certainty() -> None:
    torch.testing.assert_close(bounded(torch.tensor([[0.0, 0.5, 1.0]])), torch.tensor([[0.2, 0.5, 0.8]]))


def test_a_reward_is_for_few_tokens_and_right_answers() -> None:
    kept = torch.tensor([[True, True, False, False, False], [True, True, True, True, True]])
    right, wrong = torch.tensor([True, True]), torch.tensor([False, False])
    torch.testing.assert_close(reward(kept, right, 2.0), torch.tensor([1 - 0.25**2, 0.0]))
    assert reward(kept, wrong, 2.0).tolist() == [-2.0, -2.0]


def test_a_larger_penalty_keeps_more_tokens() -> None:
    """Four pictures, of which the k-th is recognised from k tokens or more."""
    kept = torch.ones(5, 5).tril().bool().repeat_interleave(4, 0)
    recognised = kept[:, 1:].sum(1) >= torch.arange(1, 5).repeat(5)
    best = [int(reward(kept, recognised, tau).view(5, 4).mean(1).argmax()) for tau in (0.0, 0.5, 2.0)]
    assert best == [2, 3, 4]
