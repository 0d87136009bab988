from __future__ import annotations

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError
from smalti.quantizers.grouped import GroupedConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.training.losses.annealing import EntropyAnnealing, entropic

Z = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
CODES = VectorQuantizerConfig(16, 4, learn="gradient", entropy=0.1)


@pytest.mark.parametrize("config", [LFQConfig(8, entropy=0.1), GroupedConfig(CODES, 2)])
def test_entropies_weigh_more_at_first_and_as_they_did_in_the_end(config) -> None:
    quantizer = config.build().train()
    annealing = EntropyAnnealing(3.0, 4)
    plain = quantizer(Z).loss
    factors, losses = [], []
    for _ in range(6):
        factors.append(annealing.factor)
        with annealing.over(nn.ModuleDict({"quantizer": quantizer})):
            losses.append(quantizer(Z).loss)
    assert factors == [3.0, 2.5, 2.0, 1.5, 1.0, 1.0]
    entropy = (losses[0] - plain) / 2
    assert entropy.abs() > 1e-3
    torch.testing.assert_close(losses[2] - plain, entropy)
    torch.testing.assert_close(losses[5], plain)
    torch.testing.assert_close(quantizer(Z).loss, plain)
    assert [part.config.entropy for part in entropic(quantizer)] == [0.1] * len(entropic(quantizer))


def test_evaluation_takes_no_step_and_a_checkpoint_keeps_it() -> None:
    quantizer, annealing = LFQConfig(8, entropy=0.1).build(), EntropyAnnealing(3.0, 4)
    for mode in (True, True, False):
        with annealing.train(mode).over(quantizer):
            pass
    resumed = EntropyAnnealing(3.0, 4)
    resumed.load_state_dict(annealing.state_dict())
    assert resumed.factor == 2.0


def test_weights_come_back_after_an_error_and_nothing_to_anneal_is_refused() -> None:
    quantizer, annealing = LFQConfig(8, entropy=0.1).build(), EntropyAnnealing(3.0, 4)
    with pytest.raises(RuntimeError), annealing.over(quantizer):
        raise RuntimeError
    assert quantizer.config.entropy == 0.1
    with (
        pytest.raises(ConfigError, match="Linear has no quantizer with an entropy"),
        annealing.over(nn.Linear(1, 1)),
    ):
        pass
