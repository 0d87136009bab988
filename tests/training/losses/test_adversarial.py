"""What steadies a discriminator: the penalty of its slope, smoothed labels, and steps without a lesson."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.discriminators import KINDS
from smalti.training.losses.adversarial import Adversarial, AdversarialOptions

PIXELS = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))


def play(game: Adversarial) -> dict[str, torch.Tensor]:
    rebuilt = (PIXELS * 0.5).requires_grad_()
    return game(PIXELS, rebuilt, (PIXELS - rebuilt).square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_the_squared_slope_and_moves_the_discriminator(kind: str) -> None:
    game = Adversarial(AdversarialOptions(1.0, kind, 8, 2, r1=3.0, r1_every=2))
    assert ["r1" in play(game) for _ in range(4)] == [True, False, True, False]
    penalty = play(game)["r1"]
    step, direction = 1e-6, torch.randn_like(PIXELS)
    double = game.discriminator.double()
    seen = PIXELS.double().requires_grad_()
    (slope,) = torch.autograd.grad(double(seen).logits.sum(), seen)
    around = [double(PIXELS.double() + side * step * direction).logits.sum() for side in (1, -1)]
    along = (around[0] - around[1]) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), along, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(penalty.double(), 3.0 * slope.square().sum() / 2, rtol=1e-3, atol=1e-6)
    game.float().zero_grad()
    play(game)
    play(game)["r1"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in game.parameters())
    assert "r1" not in play(game.eval())


def test_labels_are_smoothed_on_their_own_side() -> None:
    game = Adversarial(AdversarialOptions(1.0, loss="logistic", width=8, depth=2, smoothing=0.15))
    drawn = game._uncertain(torch.zeros(20_000))
    assert drawn.min() >= 0
    assert drawn.max() == pytest.approx(0.3)
    assert drawn.mean() == pytest.approx(0.15 * (2 / torch.pi) ** 0.5, rel=0.06)
    sure = torch.full((500,), 12.0)
    assert game._separate(sure, -sure) > 0.5  # certainty is punished
    plain = Adversarial(AdversarialOptions(1.0, loss="logistic", width=8, depth=2))
    assert plain._separate(sure, -sure) < 1e-4
    with pytest.raises(ConfigError, match="hinge loss has no labels"):
        AdversarialOptions(smoothing=0.1)
    with pytest.raises(ConfigError, match="did you mean 'hinge'"):
        AdversarialOptions(loss="hinj")


def test_the_discriminator_learns_in_one_of_so_many_steps() -> None:
    game = Adversarial(AdversarialOptions(1.0, width=8, depth=2, start=1, every=3, lecam=0.1, matching=1.0))
    found = [play(game) for _ in range(6)]
    assert not found[0]
    assert ["discriminator" in parts for parts in found] == [False, True, False, False, True, False]
    assert all({"adversarial", "matching"} <= parts.keys() for parts in found[1:])
    assert all(("lecam" in parts) == ("discriminator" in parts) for parts in found)
    with pytest.raises(ConfigError, match="1 is the least"):
        AdversarialOptions(every=0)
