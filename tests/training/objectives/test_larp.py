"""LARP's objective: codes in an order that a prior can follow."""

from __future__ import annotations

import pytest
import torch

from smalti.tokenizers.larp import LARP
from smalti.tokenizers.larp_prior import LARPPriorConfig
from smalti.training.losses.adversarial import AdversarialOptions
from smalti.training.objectives.larp import GAME, LARPObjective, LARPOptions
from tests.tokenizers.tiny_larp import TINY
from tests.training.objectives.steps import shapes, trained

PRIOR = LARPPriorConfig(dim=32, depth=1, heads=2, dropout=0.0)
NO_GAME = AdversarialOptions()


def options(**changes) -> LARPOptions:
    return LARPOptions(
        **{"perceptual": 0.0, "prior": PRIOR, "prior_rate": 1.0, "adversarial": NO_GAME, **changes}
    )


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    return {"clips": shapes(4, 16, 4)}


def test_clips_come_back_and_their_codes_become_predictable(clips) -> None:
    objective = LARPObjective(LARP(**TINY), options(ramp=20))
    log = trained(objective, clips, 40)
    assert log[-1]["clips/pixel"] < 0.6 * log[0]["clips/pixel"]
    assert log[-1]["clips/prior"] < 0.9 * log[0]["clips/prior"]
    assert log[-1]["clips/psnr"] > log[0]["clips/psnr"] + 4


def test_the_prior_moves_the_encoder_and_not_the_codebook(clips) -> None:
    objective = LARPObjective(
        LARP(**TINY), options(pixel_weight=0.0, bottleneck=0.0, prior_weight=1.0)
    ).train()
    objective(clips).total.backward()
    tokenizer = objective.tokenizer
    assert tokenizer.queries.grad.abs().max() > 0
    assert tokenizer.enter.weight.grad.abs().max() > 0
    assert not tokenizer.quantizer.codebook.grad.any()
    assert all(parameter.grad is not None for parameter in objective.prior.parameters())
    assert not tokenizer.leave.weight.grad.any()  # nor the decoder


def test_the_share_of_replaced_vectors_rises_and_is_kept_in_checkpoints(clips) -> None:
    objective = LARPObjective(LARP(**TINY), options(ramp=4, replaced=0.6))
    shares = []
    for _ in range(6):
        shares.append(objective.share)
        objective.train()(clips)
    assert shares == pytest.approx([0.0, 0.15, 0.3, 0.45, 0.6, 0.6])
    objective.eval()(clips)
    resumed = LARPObjective(LARP(**TINY), options(ramp=4, replaced=0.6))
    resumed.load_state_dict(objective.state_dict())
    assert int(resumed.step) == 6


def test_codes_are_drawn_in_training_alone(clips) -> None:
    objective = LARPObjective(LARP(**TINY), options())
    asked = []
    objective.prior.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    for mode in (True, True, False, False):
        objective.train(mode)(clips)
    assert not torch.equal(asked[0], asked[1])
    assert torch.equal(asked[2], asked[3])
    assert asked[0].shape == (4, 6)


def test_rates_differ_and_without_a_prior_there_is_none(clips) -> None:
    game = AdversarialOptions(
        0.3, "transformer-3d", 16, 1, "logistic", False, 0.001, smoothing=0.15, every=2, rate=0.3
    )
    objective = LARPObjective(LARP(**TINY), options(adversarial=game, prior_rate=50.0))
    assert [group["factor"] for group in objective.parameter_groups()] == [1.0, 0.3, 50.0]
    found = [set(objective.train()(clips).parts) for _ in range(2)]
    assert {"clips/discriminator", "clips/lecam"} == found[0] - found[1]
    assert "clips/adversarial" in found[1]
    alone = LARPObjective(LARP(**TINY), options(prior_weight=0.0))
    assert "clips/prior" not in alone(clips).parts
    assert (LARPOptions().adversarial, GAME.every, LARPOptions().bottleneck) == (GAME, 5, 0.1)


def test_longer_and_larger_clips_are_trained_tile_by_tile() -> None:
    tokenizer = LARP(**TINY).eval()
    torch.nn.init.normal_(tokenizer.to_pixels.weight, std=0.05)
    pixels = torch.rand(2, 3, 5, 17, 16)
    passed = tokenizer.reconstruct(pixels)
    decoded = tokenizer.decode(tokenizer.encode(pixels))
    torch.testing.assert_close(passed.pixels.clamp(0, 1), decoded, rtol=1e-4, atol=1e-5)
    assert passed.loss > 0
