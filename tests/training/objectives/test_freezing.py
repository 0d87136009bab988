from __future__ import annotations

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError
from smalti.training.objectives.freezing import Frozen


def test_modules_rest_and_parameters_wait_until_they_are_released() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 1))
    module[2].bias.requires_grad_(False)
    frozen = Frozen(module, ("0", "1.weight", "2.bias"))
    module.train()
    frozen.rest()
    mean = module[0].running_mean.clone()
    module(torch.randn(8, 3)).sum().backward()
    assert torch.equal(module[0].running_mean, mean)
    learned = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learned == {"1.bias", "2.weight"}
    frozen.release()
    left = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert left == {"2.bias"}  # it had been so before


def test_a_part_without_parameters_can_rest_and_an_unknown_one_is_refused() -> None:
    module = nn.ModuleDict({"drop": nn.Dropout(), "line": nn.Linear(2, 2)}).train()
    Frozen(module, ("drop",))
    assert not module["drop"].training
    assert module["line"].training
    with pytest.raises(ConfigError, match="no parameter or module 'lin'"):
        Frozen(module, ("lin",))
