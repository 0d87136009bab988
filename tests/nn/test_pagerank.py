import pytest
import torch

from smalti.nn import pagerank


def graph(batch: int = 2, heads: int = 3, size: int = 9) -> torch.Tensor:
    return torch.randn(batch, heads, size, size, dtype=torch.float32).mul(2).softmax(-1)


def test_many_rounds_give_the_left_principal_eigenvector() -> None:
    attention = graph(1, 1)
    scores = pagerank.vote(attention, 300)[0, 0]
    values, vectors = torch.linalg.eig(attention[0, 0].mT.double())
    principal = vectors[:, values.abs().argmax()].real
    torch.testing.assert_close(scores, (principal / principal.sum()).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rounds", [1, 2, 7, 50])
def test_importance_is_kept_in_every_round(rounds) -> None:
    torch.testing.assert_close(pagerank.vote(graph(), rounds).sum(-1), torch.ones(2, 3), atol=1e-6, rtol=0)


def test_votes_are_received_not_given() -> None:
    attention = torch.full((1, 1, 3, 3), 0.05)
    attention[..., 1] = 0.9
    assert pagerank.vote(attention, 1).argmax() == 1


def test_a_uniform_graph_gives_uniform_scores() -> None:
    torch.testing.assert_close(
        pagerank.vote(torch.full((1, 1, 8, 8), 1 / 8), 5), torch.full((1, 1, 8), 1 / 8)
    )


def test_reordered_tokens_get_reordered_scores() -> None:
    attention, order = graph(), torch.randperm(9)
    moved = attention[:, :, order][..., order]
    torch.testing.assert_close(pagerank.vote(moved, 6), pagerank.vote(attention, 6)[..., order])


def test_a_tolerance_stops_every_sample_by_itself() -> None:
    settled, restless = torch.full((1, 1, 9, 9), 1 / 9), graph(1, 1)
    both = torch.cat([settled, restless])
    together = pagerank.vote(both, 40, tolerance=1e-3)
    alone = pagerank.vote(restless, 40, tolerance=1e-3)
    torch.testing.assert_close(together[1:], alone)
    assert not torch.equal(alone, pagerank.vote(restless, 40))


def test_a_subgraph_is_normalised_and_a_row_without_weight_becomes_uniform() -> None:
    attention = graph(1, 2, 5)
    attention[0, 0, 1] = torch.tensor([0.0, 0, 0, 1, 0])
    part = pagerank.subgraph(attention, torch.tensor([[0, 1, 4]]))
    torch.testing.assert_close(part.sum(-1), torch.ones(1, 2, 3))
    torch.testing.assert_close(part[0, 0, 1], torch.full((3,), 1 / 3))
    chosen = attention[0, 1][[0, 1, 4]][:, [0, 1, 4]]
    torch.testing.assert_close(part[0, 1], chosen / chosen.sum(-1, keepdim=True))


def test_heads_outside_the_range_of_variance_do_not_count() -> None:
    flat, good, wild = torch.ones(4), torch.tensor([1.5, 0.5, 1.0, 1.0]), torch.tensor([4.0, 0, 0, 0])
    scores = torch.stack([flat, good, wild])[None]
    torch.testing.assert_close(pagerank.over_heads(scores, variance=(0.01, 0.7)), good[None])
    every = pagerank.over_heads(scores)
    torch.testing.assert_close(every, scores.square().mean(1).sqrt())
    torch.testing.assert_close(pagerank.over_heads(scores, variance=(8.0, 9.0)), every)
    torch.testing.assert_close(pagerank.over_heads(scores, mean="mean"), scores.mean(1))
