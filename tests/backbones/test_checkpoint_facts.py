"""What checkpoints tell: prefixes, counts, sides, refusals."""

import pytest
import torch

from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.errors import ConfigError
from smalti.nn.strict_loading import told

X = torch.zeros(1)


def test_names_are_unwrapped_and_counted():
    state = unwrapped({"module.blocks.0.a.weight": X, "module.blocks.0.b.weight": X, "blocks.11.a.weight": X})
    assert sorted(state) == ["blocks.0.a.weight", "blocks.0.b.weight", "blocks.11.a.weight"]
    assert counted(state, "blocks.") == 2
    assert counted(state, "layers.") == 0
    assert told(state, "blocks.11.a.weight") is X


def test_sides_of_tables():
    assert square_side(torch.zeros(1, 197, 8)) == 14
    assert square_side(torch.zeros(1, 9, 8), prefix=0) == 3


def test_refusals():
    with pytest.raises(ConfigError, match="no norm"):
        told({}, "norm")
    for places in (1, 11):
        with pytest.raises(ConfigError, match="square"):
            square_side(torch.zeros(1, places, 8))
