"""The general objective of tokenizers, on one of a few weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.discriminators import KINDS
from smalti.quantizers.lfq import LFQConfig
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.grids import GridTokenizer
from smalti.training.losses.adversarial import Adversarial, AdversarialOptions
from smalti.training.losses.alignment import Alignment
from smalti.training.losses.distance import Perceptual, logit_laplace
from smalti.training.losses.vgg import Trunk
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions


class Linear(GridTokenizer):
    """Four numbers for 4 × 4 pixels."""

    compression = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = (
            nn.Conv3d(3, 8, (1, 4, 4), (1, 4, 4)),
            nn.ConvTranspose3d(8, 3, (1, 4, 4), (1, 4, 4)),
        )

    def encode_grid(self, pixels: Tensor) -> Tensor:
        return self.enter(pixels).movedim(1, -1)

    def decode_grid(self, codes: Tensor) -> Tensor:
        return self.leave(codes.movedim(-1, 1))

    def reconstruct(self, pixels: Tensor) -> Reconstruction:
        latents = self.encode_grid(pixels)
        return Reconstruction(self.decode_grid(latents), 1e-3 * latents.square().mean())


def batch(side: int = 16) -> dict[str, Tensor]:
    ramp = torch.linspace(0.1, 0.9, side)
    picture = torch.stack([ramp[:, None] * ramp, ramp[:, None].expand(side, side), ramp.expand(side, side)])
    return {"pictures": picture[None, :, None].repeat(2, 1, 1, 1, 1)}


def trained(options: AutoencoderOptions, steps: int = 60) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    objective = AutoencoderObjective(Linear(), options)
    groups = [{"params": g["params"], "lr": 1e-2 * g["factor"]} for g in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(groups)
    log = []
    for _ in range(steps):
        loss = objective(batch())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        log.append(loss.parts)
    return log


@pytest.mark.parametrize("pixel", ["l1", "l2", "logit-laplace"])
def test_every_distance_leads_to_the_picture(pixel: str) -> None:
    log = trained(AutoencoderOptions(pixel=pixel))
    assert log[-1]["pictures/psnr"] > log[0]["pictures/psnr"] + 6
    assert "pictures/bottleneck" in log[0]


def test_an_unknown_distance_and_a_name_that_freezes_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no distance 'l3'"):
        AutoencoderObjective(Linear(), AutoencoderOptions(pixel="l3"))
    with pytest.raises(ConfigError, match="no parameter or module 'middle'"):
        AutoencoderObjective(Linear(), AutoencoderOptions(frozen=("middle",)))


def test_what_is_frozen_stays() -> None:
    model = Linear()
    objective = AutoencoderObjective(model, AutoencoderOptions(frozen=("enter",)))
    objective(batch()).total.backward()
    assert model.enter.weight.grad is None
    assert model.leave.weight.grad is not None
    assert len(objective.parameter_groups()[0]["params"]) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_a_discriminator_learns_the_difference_and_its_loss_moves_it_alone(kind: str, loss: str) -> None:
    torch.manual_seed(0)
    game = Adversarial(AdversarialOptions(1.0, kind, 16, 2, loss, lecam=0.01, matching=1.0))
    pixels = torch.rand(4, 3, 3, 32, 32)
    rebuilt = pixels.mean((3, 4), keepdim=True).expand_as(pixels).clone().requires_grad_()
    optimizer = torch.optim.AdamW(game.parameters(), 1e-3)
    losses = []
    for _ in range(25):
        parts = game(pixels, rebuilt, (pixels - rebuilt).square().mean())
        assert set(parts) == {"discriminator", "adversarial", "lecam", "matching"}
        optimizer.zero_grad()
        parts["discriminator"].backward()
        assert rebuilt.grad is None
        optimizer.step()
        losses.append(parts["discriminator"].item())
    assert losses[-1] < losses[0] - 0.1
    parts = game(pixels, rebuilt, (pixels - rebuilt).square().mean())
    optimizer.zero_grad()
    (parts["adversarial"] + parts["matching"]).backward()
    assert rebuilt.grad is not None
    assert all(p.grad is None or not p.grad.any() for p in game.parameters())


def test_the_adaptive_weight_makes_gradients_equally_long() -> None:
    torch.manual_seed(0)
    game = Adversarial(AdversarialOptions(1.0, width=8, depth=2))
    pixels, rebuilt = torch.rand(2, 3, 1, 32, 32), torch.rand(2, 3, 1, 32, 32, requires_grad=True)
    distance = 1000 * (pixels - rebuilt).square().mean()
    parts = game(pixels, rebuilt, distance)
    far, false = (
        torch.autograd.grad(x, rebuilt, retain_graph=True)[0].norm() for x in (distance, parts["adversarial"])
    )
    torch.testing.assert_close(far, false, rtol=0.02, atol=0)


def test_a_discriminator_joins_at_its_step() -> None:
    options = AutoencoderOptions(adversarial=AdversarialOptions(0.1, width=8, depth=2, start=2))
    log = trained(options, 4)
    assert ["pictures/adversarial" in parts for parts in log] == [False, False, True, True]


def test_logit_laplace_is_lowest_at_the_picture_and_counts_as_a_density() -> None:
    pixels = torch.rand(1, 3, 1, 64, 64)
    losses = [logit_laplace(pixels, pixels + shift).item() for shift in (0.0, 0.05, 0.2)]
    assert losses == sorted(losses)
    x = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64).view(1, 1, 1, 1, -1)
    z, scale = (x * 0.8 + 0.1), 0.2  # of one pixel whose centre is 0.5: the density integrates to 1 on (0, 1)
    density = torch.exp(-(z.logit().abs() / scale)) / (2 * scale * z * (1 - z))
    assert torch.trapezoid(density.flatten(), z.flatten()) == pytest.approx(1, abs=1e-3)


def test_perceptual_distance_and_gram_see_what_pixels_do_not() -> None:
    torch.manual_seed(0)
    weights = Trunk().state_dict()
    network = Perceptual(weights)
    pixels = torch.rand(1, 3, 2, 32, 32)
    same, same_gram = network(pixels, pixels)
    assert same == 0
    assert same_gram == 0
    moved = pixels.roll(5, -1)
    far, gram = network(pixels, moved)
    assert far > 0
    assert gram < 0.5 * network(pixels, pixels * 0.2)[1]  # a texture that moved is the same texture
    assert not any(p.requires_grad for p in network.train().parameters())
    assert not network.training


def test_heads_weigh_channels(tmp_path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = Trunk().state_dict()
    widths = (64, 128, 256, 512)
    pixels, rebuilt = torch.rand(1, 3, 1, 32, 32), torch.rand(1, 3, 1, 32, 32)
    plain = Perceptual(weights)(pixels, rebuilt)[0]
    for factor in (1.0, 2.0, 0.0):
        save_file(
            {str(i): torch.full((w,), factor) for i, w in enumerate(widths)}, tmp_path / "heads.safetensors"
        )
        torch.testing.assert_close(
            Perceptual(weights, tmp_path / "heads.safetensors")(pixels, rebuilt)[0], factor * plain
        )


def test_alignment_falls_when_latents_hold_the_features() -> None:
    torch.manual_seed(0)
    latents = torch.randn(2, 16, 8)
    wanted = (latents @ torch.randn(8, 12))[:, ::2]
    aligned = Alignment(8, 12)
    optimizer = torch.optim.AdamW(aligned.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = aligned(latents, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


class Binary(Linear):
    """With a quantizer of three bits, which asks for entropies."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = LFQConfig(8, entropy=0.1).build()

    def reconstruct(self, pixels: Tensor) -> Reconstruction:
        found = self.quantizer(self.encode_grid(pixels))
        return Reconstruction(self.decode_grid(found.values), found.loss)


def test_entropies_are_annealed_once_a_batch() -> None:
    options = AutoencoderOptions(pixel_weight=0.0, entropy_start=3.0, entropy_steps=2)
    objective = AutoencoderObjective(Binary(), options).train()
    both = {**batch(), "clips": batch()["pictures"]}
    totals = [objective(both).total.item() for _ in range(4)]
    assert totals[0] - totals[1] == pytest.approx(totals[1] - totals[2], abs=1e-5)
    assert totals[0] != pytest.approx(totals[2])
    assert totals[2] == totals[3]
    with pytest.raises(ConfigError, match="no quantizer with an entropy"):
        AutoencoderObjective(Linear(), options)(batch())


def test_what_else_a_batch_holds_is_not_taken_for_pixels() -> None:
    objective = AutoencoderObjective(Linear())
    given = {**batch(), "features": torch.randn(2, 4, 8)}
    assert objective(given).parts.keys() == objective(batch()).parts.keys()
    assert objective.samples(given).shape == (2, 2, 3, 16, 16)
    with pytest.raises(ConfigError, match="pictures or clips are needed"):
        objective({"features": torch.randn(2, 4, 8)})
