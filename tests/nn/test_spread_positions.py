from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.spread_positions import spread_positions


def test_waves_reach_from_one_to_the_base() -> None:
    found = spread_positions(torch.tensor([[3, 5]]), 12, 100.0)[0]
    waves = torch.tensor([1.0, 0.1, 0.01])
    expected = torch.cat([(3 * waves).sin(), (3 * waves).cos(), (5 * waves).sin(), (5 * waves).cos()])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dim", [10, 4])
def test_channels_that_axes_cannot_share_are_refused(dim) -> None:
    with pytest.raises(ConfigError, match="channels"):
        spread_positions(torch.zeros(1, 2, dtype=torch.long), dim)
