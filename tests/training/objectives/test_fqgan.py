"""FQGAN's objective: codebooks that differ, one of them taught."""

from __future__ import annotations

from dataclasses import replace

import torch

from smalti.tokenizers.fqgan import FQGAN, FQGANConfig
from smalti.training.losses.adversarial import AdversarialOptions
from smalti.training.objectives.fqgan import FQGANObjective, FQGANOptions
from tests.tokenizers.tiny_fqgan import TINY
from tests.training.objectives.steps import shapes, trained

BATCH = {"pictures": shapes(6, 16)}
OPTIONS = FQGANOptions(perceptual=0.0, adversarial=AdversarialOptions())


def test_pictures_come_back_from_codebooks_that_differ() -> None:
    apart, alike = (
        trained(FQGANObjective(FQGAN(FQGANConfig(**{**TINY, "quantizer": quantizer})), OPTIONS), BATCH, 20)
        for quantizer in (
            replace(TINY["quantizer"], disentangle=5.0),
            replace(TINY["quantizer"], disentangle=0.0),
        )
    )
    for log in (apart, alike):
        assert log[-1]["pictures/pixel"] < 0.7 * log[0]["pictures/pixel"]
    assert apart[-1]["pictures/disentanglement"] < 0.5 * apart[0]["pictures/disentanglement"]
    assert "pictures/teacher" not in apart[0]


def test_a_teacher_is_heard_by_the_second_codebook_alone() -> None:
    tokenizer = FQGAN(FQGANConfig(**TINY))
    options = replace(OPTIONS, pixel_weight=0.0, bottleneck=0.0, teacher=1.0)
    objective = FQGANObjective(tokenizer, options).train()
    teacher = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    objective({**BATCH, "teacher_1": teacher}).total.backward()
    looks, shows = tokenizer.heads
    assert shows.project.weight.grad.abs().max() > 0
    assert looks.project.weight.grad is None or not looks.project.weight.grad.any()
    assert tokenizer.encoder.conv_in.weight.grad.abs().max() > 0
    log = trained(objective, {**BATCH, "teacher_1": teacher}, 20, rate=6e-3)
    assert log[-1]["pictures/teacher"] < log[0]["pictures/teacher"] - 0.2


def test_teachers_change_nothing_of_the_pictures_and_are_of_pictures_alone() -> None:
    objective = FQGANObjective(FQGAN(FQGANConfig(**TINY)), OPTIONS).eval()
    odd = {"pictures": torch.rand(2, 3, 1, 18, 15), "clips": torch.rand(2, 3, 2, 16, 16)}
    plain = objective(odd).parts
    taught = objective({**odd, "teacher_1": torch.randn(2, 16)}).parts
    assert taught.keys() - plain.keys() == {"pictures/teacher"}
    for name, value in plain.items():
        torch.testing.assert_close(value, taught[name])


def test_the_official_weights() -> None:
    options = FQGANOptions()
    assert (options.pixel, options.perceptual, options.teacher) == ("l2", 1.0, 0.5)
    game = options.adversarial
    assert (game.weight, game.kind, game.loss, game.adaptive, game.start) == (
        0.5,
        "patch",
        "hinge",
        True,
        20_000,
    )


def test_every_teacher_of_three_codebooks_counts() -> None:
    quantizer = replace(TINY["quantizer"], groups=3)
    tokenizer = FQGAN(FQGANConfig(**{**TINY, "quantizer": quantizer, "teachers": (16, 24)}))
    objective = FQGANObjective(tokenizer, OPTIONS).eval()
    first, second = torch.randn(6, 16), torch.randn(6, 24)
    both, one, other = (
        objective({**BATCH, **said}).parts["pictures/teacher"]
        for said in ({"teacher_1": first, "teacher_2": second}, {"teacher_1": first}, {"teacher_2": second})
    )
    torch.testing.assert_close(both, one + other)
