from __future__ import annotations

import pytest
import torch

from smalti.nn.place_bias import ContinuousBias, linear_slopes, past_bias

ALL = slice(None)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2), (1, 1), (5,)])
def test_the_table_gives_what_the_network_gives_for_every_pair(size) -> None:
    bias = ContinuousBias(8, 2, len(size))
    axes = torch.meshgrid(*(torch.arange(length) for length in size), indexing="ij")
    places = torch.stack(axes, -1).flatten(0, -2)
    offsets = places[:, None] - places
    expected = bias.net(offsets.sign() * (offsets.abs() + 1.0).log()).permute(2, 0, 1)[None]
    rows = bias(size)
    torch.testing.assert_close(rows(ALL), expected)
    torch.testing.assert_close(rows(slice(0, 1)), expected[:, :, :1])


def test_slopes_are_a_row_of_halves() -> None:
    torch.testing.assert_close(linear_slopes(8), 2.0 ** -torch.arange(1, 9))
    expected = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])
    torch.testing.assert_close(linear_slopes(6), expected)


def test_the_past_fades_and_the_future_is_closed() -> None:
    bias = past_bias(torch.tensor([0.5]), 2, 4, 3, torch.zeros(()))(ALL)[0, 0]
    low = -torch.inf
    expected = torch.tensor([[-1.0, -0.5, 0.0, low], [low, -1.0, -0.5, 0.0]])
    torch.testing.assert_close(bias, expected)
    assert past_bias(torch.tensor([0.5]), 2, 4, None, torch.zeros(()))(ALL)[0, 0, 1, 0] == -1.5
