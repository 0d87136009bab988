"""Reading other people's weights: names, numbers, and every way in which tensors may not fit."""

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told


def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), 4.0), "bias": torch.ones(2)}


def test_names_follow_the_rules_in_order() -> None:
    found = renamed({"net.a.0.w": torch.ones(1)}, ((r"^net\.", ""), (r"^a\.(\d+)\.", r"blocks.\1.")))
    assert list(found) == ["blocks.0.w"]


def test_numbers_are_found_once_and_in_order() -> None:
    names = dict.fromkeys(("up.10.w", "up.2.w", "up.2.b", "down.3.w"), torch.ones(1))
    assert numbered(names, r"up\.(\d+)\.") == (2, 10)


def test_weights_that_fit_are_loaded() -> None:
    layer = nn.Linear(3, 2)
    load_strictly(layer, state())
    assert (layer.weight == 4).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"bias": None}, "bias"), ({"more": torch.ones(1)}, "more"), ({"bias": torch.ones(5)}, "instead of")],
)
def test_weights_that_do_not_fit_are_named_and_leave_the_module_alone(change, word) -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    changed = {name: tensor for name, tensor in (state() | change).items() if tensor is not None}
    with pytest.raises(ConfigError, match=word):
        load_strictly(layer, changed)
    assert torch.equal(layer.weight, before)


def test_a_tensor_that_is_not_there_is_named() -> None:
    assert told(state(), "bias").shape == (2,)
    with pytest.raises(ConfigError, match="head"):
        told(state(), "head")
