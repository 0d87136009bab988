"""Positions by falling score, ties by position."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.nn.order import descending


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_equal_scores_keep_their_order(values) -> None:
    expected = sorted(range(len(values)), key=lambda place: -values[place])
    assert descending(torch.tensor(values, dtype=torch.float32)).tolist() == expected


def test_a_long_row_of_equal_scores_stays_as_it_is() -> None:
    assert torch.equal(descending(torch.zeros(3, 5000)), torch.arange(5000).expand(3, -1))


def test_an_exported_model_sorts_without_asking_for_stability() -> None:
    class Sorted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return descending(x)

    x = torch.randn(2, 9)
    program = torch.export.export(Sorted(), (x,))
    assert torch.equal(program.module()(x), descending(x))
    assert not any("stable" in node.kwargs for node in program.graph.nodes)
