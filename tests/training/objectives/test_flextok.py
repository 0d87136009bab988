"""FlexTok's objective: a flow that the first tokens lead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from smalti.errors import ConfigError
from smalti.tokenizers.flextok import FlexTok
from smalti.training.objectives.flextok import FlexTokObjective, FlexTokOptions
from tests.tokenizers.tiny_flextok import TINY
from tests.training.objectives.steps import shapes, trained

SIDE = 16


@pytest.fixture
def tokenizer() -> FlexTok:
    return FlexTok(**TINY)


@pytest.fixture
def batch(tokenizer) -> dict[str, torch.Tensor]:
    return {"pictures": shapes(16, tokenizer.compression[1])}


def test_the_flow_is_learnt_and_the_autoencoder_stays(tokenizer, batch) -> None:
    before = {name: value.clone() for name, value in tokenizer.autoencoder.state_dict().items()}
    objective = FlexTokObjective(tokenizer, FlexTokOptions(times="stratified"))
    log = trained(objective, batch, 50)
    first, last = (sum(part["pictures/flow"] for part in some) / 10 for some in (log[:10], log[-10:]))
    assert last < 0.85 * first
    for name, value in tokenizer.autoencoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not tokenizer.autoencoder.training
    learned = {id(p) for group in objective.parameter_groups() for p in group["params"]}
    assert not learned & {id(p) for p in tokenizer.autoencoder.parameters()}
    for part in ("registers", "to_codes.weight", "absent", "from_codes.weight", "leave.weight"):
        assert tokenizer.resampler.get_parameter(part).grad.abs().max() > 0, part
    objective.finish(tokenizer)
    assert all(parameter.requires_grad for parameter in tokenizer.parameters())


def test_a_drawn_count_of_registers_stays_in_training_and_all_in_evaluation(tokenizer, batch) -> None:
    objective = FlexTokObjective(tokenizer)
    kept = [objective.train()(batch).parts["pictures/kept"].item() for _ in range(3)]
    assert len(set(kept)) > 1
    assert objective.eval()(batch).parts["pictures/kept"] == 8


def test_the_error_of_latents_is_that_of_the_velocity_times_the_noise_squared(tokenizer, batch) -> None:
    parts = {}
    for error in ("velocity", "latents"):
        torch.manual_seed(3)
        objective = FlexTokObjective(tokenizer, FlexTokOptions(error=error))
        objective._times = lambda count: torch.full((count,), 0.5)
        parts[error] = objective.train()(batch).parts["pictures/flow"]
    torch.testing.assert_close(parts["latents"], parts["velocity"] / 4)


def test_given_features_align_the_decoder(tokenizer, batch) -> None:
    features = torch.randn(16, 9, 24, generator=torch.Generator().manual_seed(1))
    objective = FlexTokObjective(tokenizer, FlexTokOptions(features=24, alignment=0.5))
    log = trained(objective, {**batch, "features": features}, 25)
    assert log[-1]["pictures/alignment"] < log[0]["pictures/alignment"] - 0.02
    parts = log[-1]
    assert parts["total"] == pytest.approx(parts["pictures/flow"] + parts["pictures/alignment"], rel=1e-4)
    with pytest.raises(ConfigError, match="ask for features of 24 channels"):
        objective(batch)
    with pytest.raises(ConfigError, match="features of 16 pictures for 64 tiles"):
        objective({"pictures": batch["pictures"].repeat(1, 1, 1, 2, 2), "features": features})


@pytest.mark.parametrize("times", ["logit-normal", "stratified", "mode-scaled"])
def test_shares_of_noise_lie_between_none_and_all(tokenizer, times: str) -> None:
    drawn = FlexTokObjective(tokenizer, FlexTokOptions(times=times))._times(2000)
    assert 0 <= drawn.min() < 0.1
    assert 0.9 < drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)


def test_clips_are_frames_and_pixels_are_latents_without_an_autoencoder() -> None:
    inner = replace(TINY["resampler"], channels=3)
    objective = FlexTokObjective(FlexTok(**{**TINY, "resampler": inner, "autoencoder": None}))
    loss = objective({"clips": shapes(2, 4, 3)})
    assert loss.parts.keys() >= {"clips/flow", "clips/kept"}
    rows = objective.eval().samples({"clips": shapes(2, 4, 3)})
    assert rows.shape == (2, 2, 3, 4, 4)


@pytest.mark.parametrize("changes", [{"error": "noise"}, {"times": "uniform"}])
def test_unknown_names_are_refused(tokenizer, changes) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes.values()))):
        FlexTokObjective(tokenizer, FlexTokOptions(**changes))
