from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.codec.context import INPUT_LIMIT, KINDS, POSITIONS, PRECISION, SCALES, ContextCoder
from smalti.training.context import (
    ContextNetwork,
    ContextObjective,
    ContextSamples,
    compand_table,
    scale_table,
    tails,
)
from smalti.training.data import CropConfig, Crops
from tests.tokenizers.tiny import tiny_mosaic
from tests.training import made


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> ContextSamples:
    root = tmp_path_factory.mktemp("corpus")
    config = CropConfig(
        pictures=2, clips=2, crop=16, frames=9, sides=(60,), clip_side=36, segment=9, every=0.0
    )
    tokenizer = tiny_mosaic()
    tokenizer.still.copy_(torch.tensor([0, 1, -1, 3, 2, -1]))
    return ContextSamples(tokenizer, Crops(config, made.photos(root), made.clips(root)), batches=4)


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


def test_samples_take_every_kind_and_stage_in_turn(samples: ContextSamples) -> None:
    quantizer = samples.tokenizer.quantizer
    seen = []
    for step in range(3 * quantizer.depth):
        batch = samples.batch(step)
        kind, stage = int(batch["kind"]), int(batch["stage"])
        seen.append((kind, stage))
        assert batch["new"].shape == (2, 2, 2, quantizer.dim)
        opened = quantizer.config.opened[stage]
        assert not batch["new"][..., opened:].any()
        if stage == 0:
            assert not batch["old"].any()
        unit = 2 ** (quantizer.depth - 1 - stage)
        assert ((batch["new"] - batch["old"]) % unit == 0).all()
        assert batch["past"].any() == (KINDS[kind] == "next")
    assert sorted(seen) == [(kind, stage) for kind in range(3) for stage in range(quantizer.depth)]
    assert torch.equal(samples.batch(5)["new"], samples.batch(5)["new"])
    assert any(
        not torch.equal(samples.batch(5, seed)["new"], samples.batch(5)["new"]) for seed in range(1, 9)
    )


def test_the_past_of_a_first_clip_grid_is_what_the_coder_makes_of_the_picture(
    samples: ContextSamples,
) -> None:
    model = samples.tokenizer
    coder = ContextCoder(model.quantizer, ContextObjective(model.quantizer, 8).arrays(model.still))
    latents = [model.quantizer.half_steps(grid) for grid in samples.clips.long().unbind(1)]
    wanted = {tuple(coder._past(clip.numpy(), from_picture=True).ravel()) for clip in latents[0]}
    wanted |= {tuple(clip.numpy().ravel()) for clip in latents[1]}
    last = len(KINDS) * (model.quantizer.depth - 1) + KINDS.index("next")
    for turn in range(6):
        step = last + turn * len(KINDS) * model.quantizer.depth
        assert {tuple(past.numpy().ravel()) for past in samples.batch(step)["past"]} <= wanted
