from __future__ import annotations

import math

import torch

from smalti.nn.adaptive_norm import Modulation, TimeEmbedding, modulate


def test_a_time_becomes_cosines_then_sines_from_the_shortest_wave() -> None:
    embedding = TimeEmbedding(4, waves=4, period=256.0)
    seen: list[torch.Tensor] = []
    embedding.enter.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    embedding(torch.tensor([0.001]))
    slow = 1 / math.sqrt(256)
    expected = [math.cos(1), math.cos(slow), math.sin(1), math.sin(slow)]
    torch.testing.assert_close(seen[0][0], torch.tensor(expected))


def test_groups_of_tokens_have_modulations_of_their_own() -> None:
    layer = Modulation(3, 2, groups=2)
    time = torch.randn(2, 3)
    assert not torch.stack(layer(time, (1, 2))).any()
    torch.nn.init.normal_(layer.linear.weight)
    shift, scale = layer(time, (1, 2))
    assert shift.shape == scale.shape == (2, 3, 3)
    torch.testing.assert_close(shift[:, 1], shift[:, 2])
    assert not torch.allclose(shift[:, 0], shift[:, 1])
    x = torch.ones(2, 3, 3)
    torch.testing.assert_close(modulate(x, shift, scale), 1 + scale + shift)
