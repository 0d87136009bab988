from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.codec.context import INPUT_LIMIT, KINDS, POSITIONS, PRECISION, SCALES
from smalti.training.context import (
    ContextNetwork,
    ContextObjective,
    compand_table,
    scale_table,
    tails,
)
from tests.tokenizers.tiny import tiny_mosaic


def test_tails_fall_from_one_half_to_nothing_and_wider_scales_reach_farther() -> None:
    table = tails()
    assert table.shape == (SCALES, POSITIONS)
    assert (table[:, 0] == 1 << (PRECISION - 1)).all()
    assert (table[:, -1] == 0).all()
    assert (np.diff(table, axis=1) <= 0).all()
    assert (np.diff(table[:, :-1], axis=0) >= 0).all()
    assert (scale_table().diff() > 0).all()


def test_inputs_keep_small_magnitudes_and_grow_with_the_logarithm() -> None:
    table = compand_table().astype(int)
    assert table[:9].tolist() == list(range(9))
    assert table[[16, 32, 64, 128]].tolist() == [12, 16, 20, 24]
    assert table.max() <= INPUT_LIMIT
    assert (np.diff(table) >= 0).all()


def test_weights_become_whole_numbers_of_eight_bits() -> None:
    network = ContextNetwork(5, hidden=8)
    network.here.data.fill_(3.0)  # far beyond what 8 bits hold
    network.leave.data.fill_(-3.0)
    arrays = network.integers()
    assert (arrays["here"] == 127).all()
    assert (arrays["leave"] == -127).all()
    assert {name for name, array in arrays.items() if array.dtype == np.int8} == {
        "here",
        "before",
        "middle",
        "leave",
        "follow",
    }


def test_every_weight_learns() -> None:
    quantizer = tiny_mosaic().quantizer
    objective = ContextObjective(quantizer, hidden=8)
    assert len(objective.parameter_groups()[0]["params"]) == len(list(objective.parameters()))
    ids = quantizer.ids(torch.randn(2, 8, 8, quantizer.dim) * 0.5)
    for kind in range(len(KINDS)):
        for stage in range(quantizer.depth):
            new = quantizer.half_steps(ids[..., : quantizer.stages[stage]])
            old = (
                quantizer.half_steps(ids[..., : quantizer.stages[stage - 1]])
                if stage
                else torch.zeros_like(new)
            )
            loss = objective(
                {
                    "kind": torch.tensor(kind),
                    "stage": torch.tensor(stage),
                    "old": old,
                    "new": new,
                    "past": new,
                }
            )
            assert loss.parts.keys() == {f"{KINDS[kind]}@{stage + 1}"}
            loss.total.backward()
    for name, parameter in objective.named_parameters():
        if name.endswith("follow") and ".next." not in name:  # nothing before to follow
            assert parameter.grad is None
            continue
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_bits_are_at_least_those_of_a_certain_guess() -> None:
    """Distributions whose mass is all in the right bins cost nothing, and in the wrong ones much."""
    quantizer = tiny_mosaic().quantizer
    objective = ContextObjective(quantizer, hidden=8)
    for network in objective.networks["picture"]:
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)  # centre 0 at the narrowest scale
    zeros = torch.zeros(1, 6, 6, quantizer.dim, dtype=torch.int64)
    batch = {"kind": torch.tensor(0), "stage": torch.tensor(0), "old": zeros, "past": zeros}
    right = objective({**batch, "new": zeros}).total
    wrong = objective({**batch, "new": zeros + 3 * 4}).total
    assert right.item() == pytest.approx(0, abs=1e-3)
    assert wrong.item() > 20 * quantizer.config.opened[0]
