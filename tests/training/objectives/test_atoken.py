"""AToken's objective: no discriminator; pictures and clips in turn; drawn or rounded latents."""

from __future__ import annotations

import pytest
import torch

from smalti.tokenizers.atoken import AToken
from smalti.training.losses.distance import Perceptual
from smalti.training.losses.vgg import Trunk
from smalti.training.objectives import autoencoder
from smalti.training.objectives.atoken import ATokenObjective, ATokenOptions, likeness_divergence
from tests.tokenizers.tiny_atoken import TINY
from tests.training.objectives.steps import shapes, trained

PLAIN = ATokenOptions(perceptual=0.0, gram=0.0)


@pytest.fixture
def random_trunk(monkeypatch) -> None:
    """Features of random convolutions in place of the published ones, which are fetched."""
    trunk = Trunk().state_dict()
    monkeypatch.setattr(autoencoder, "Perceptual", lambda: Perceptual(trunk))


@pytest.mark.parametrize("levels", [(), (4,) * 6], ids=["kl", "fsq"])
def test_pictures_and_clips_come_back_in_turn(levels) -> None:
    tokenizer = AToken(**{**TINY, "levels": levels})
    objective = ATokenObjective(tokenizer, PLAIN)
    groups = [g["params"] for g in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(groups[0], 5e-3, betas=(0.9, 0.95))
    turns = ({"pictures": shapes(4, 16)}, {"clips": shapes(2, 16, 4)})
    log: dict[str, list[float]] = {"pictures/pixel": [], "clips/pixel": []}
    for step in range(60):
        loss = objective.train()(turns[step % 2])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        for name, value in loss.parts.items():
            if name in log:
                log[name].append(value.item())
        assert ("pictures/kl" in loss.parts or "clips/kl" in loss.parts) == (not levels)
    for values in log.values():
        assert len(values) == 30
        assert values[-1] < 0.6 * values[0]


def test_textures_count_in_pictures_alone_and_nothing_is_a_discriminator(random_trunk) -> None:
    objective = ATokenObjective(AToken(**TINY), ATokenOptions())
    assert objective.adversarial is None
    parts = objective({"pictures": shapes(2, 16), "clips": shapes(1, 16, 4)}).parts
    assert {"pictures/perceptual", "pictures/gram", "clips/pixel"} <= parts.keys()
    assert not {"clips/perceptual", "clips/gram"} & parts.keys()
    log = trained(objective, {"pictures": shapes(2, 16)}, 12)
    assert log[-1]["total"] < 0.9 * log[0]["total"]


def test_a_teacher_shapes_what_is_pooled() -> None:
    tokenizer = AToken(**TINY)
    objective = ATokenObjective(tokenizer, ATokenOptions(perceptual=0.0, gram=0.0, pixel_weight=0.0))
    random = torch.Generator().manual_seed(1)
    given = {"teacher": torch.randn(4, 32, generator=random), "texts": torch.randn(5, 32, generator=random)}
    batch = {"pictures": shapes(4, 16), "clips": shapes(1, 16, 4), **given}
    assert "clips/meaning" not in objective(batch).parts
    log = trained(objective, {"pictures": batch["pictures"], **given}, 40)
    assert log[-1]["pictures/meaning"] < 0.5 * log[0]["pictures/meaning"]
    assert tokenizer.pooling.probe.grad is not None
    assert "pictures/meaning" not in objective({"pictures": batch["pictures"]}).parts


def test_the_divergence_is_none_of_equal_likenesses() -> None:
    texts, pooled, other = torch.randn(3, 8), torch.randn(4, 8), torch.randn(4, 8)
    assert likeness_divergence(pooled, pooled * 3, texts) == pytest.approx(0, abs=1e-5)
    scale = torch.tensor(4.8438).exp()
    ours, theirs = (
        (
            scale * torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(texts, dim=-1).T
        ).softmax(-1)
        for x in (pooled, other)
    )
    by_hand = (theirs * (theirs.clamp(min=1e-30).log() - ours.clamp(min=1e-30).log())).sum(-1).mean()
    assert likeness_divergence(pooled, other, texts) == pytest.approx(by_hand.item(), rel=0.02)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 17, 9), (3, 8, 12), (5, 9, 16)])
def test_any_size_is_rebuilt_as_it_is_decoded(size) -> None:
    tokenizer = AToken(**TINY).eval()
    pixels = torch.rand(2, 3, *size)
    passed = tokenizer.reconstruct(pixels)
    assert passed.pixels.shape == pixels.shape
    decoded = tokenizer.decode(tokenizer.encode(pixels))
    torch.testing.assert_close(passed.pixels.clamp(0, 1), decoded, rtol=1e-4, atol=1e-5)
