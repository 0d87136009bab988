"""S5's decoder against the official ViS4mer: its first kernel, its first layer, its logits."""

from __future__ import annotations

import pytest
import torch

from smalti.backbones.s5 import S5
from smalti.tokens import Tokens
from tests.golden.cases import Case, golden


def model_of(case: Case) -> S5:
    return S5.from_official(case.weights, prenorm=case.config["prenorm"]).eval()


@golden("s5")
@torch.no_grad()
def test_matches_the_official_module(case: Case) -> None:
    model, about = model_of(case), case.config
    layer = model.online.blocks[0].mix
    case.check("kernel0", layer.kernel(about["l_max"]))
    case.check("s4_y", layer(case.inputs["s4_u"].mT).mT)
    case.check("logits", model.online(case.inputs["x"]))
    case.check("logits", model.classify(model(Tokens(values=case.inputs["x"]))))


@golden("s5")
def test_sizes_are_read_off_the_checkpoint(case: Case) -> None:
    config, about = model_of(case).config, case.config
    assert (config.inputs, config.length, config.classes) == tuple(
        about[name] for name in ("d_input", "l_max", "d_output")
    )
    assert (config.dim, config.depth, config.state, config.keep) == (
        about["d_model"],
        about["n_layers"],
        about["d_state"],
        1.0,
    )


@golden("s5")
@torch.no_grad()
def test_the_official_layer_step_by_step(case: Case) -> None:
    layer, u = model_of(case).online.blocks[0].mix, case.inputs["s4_u"]
    recurrence = layer.kernel.recurrence()
    state, given = recurrence.start(len(u)), []
    for column in u.unbind(-1):
        y, state = layer.step(recurrence, column, state)
        given.append(y)
    case.check("s4_y", torch.stack(given, -1))


@golden("s5")
@pytest.mark.parametrize("steps", [7, 96])
@torch.no_grad()
def test_official_weights_at_other_lengths_are_the_same_state_space(case: Case, steps) -> None:
    kernel = model_of(case).online.blocks[0].mix.kernel
    recurrence = kernel.recurrence()
    state, given = recurrence.start(1), []
    for number in range(steps):
        u = torch.full((1, len(kernel.log_dt)), float(number == 0), dtype=torch.float64)
        y, state = recurrence.step(u, state)
        given.append(y[0])
    torch.testing.assert_close(kernel(steps), torch.stack(given, -1).float(), atol=1e-4, rtol=1e-4)
