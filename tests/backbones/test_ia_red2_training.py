import pytest
import torch
from torch.nn import functional as F

from smalti.backbones.ia_red2 import IARed2ViT, IARed2ViTConfig
from smalti.backbones.ia_red2_training import (
    Phase,
    PolicyGradient,
    adaptation_loss,
    curriculum,
    heat_map,
    open_for,
    overlay,
)
from smalti.errors import ConfigError
from smalti.reducers.ia_red2 import IARed2Config


def small(groups: int = 2, std: float | None = 0.3, **options) -> IARed2ViT:
    reducer = IARed2Config(dim=16, heads=2, depth=2, groups=groups)
    given = {"size": 16, "patch": 4, "heads": 2, "classes": 3} | options
    model = IARed2ViT(IARed2ViTConfig(reducer, **given))
    for parameter in model.parameters():
        if std is not None:
            torch.nn.init.normal_(parameter, std=std)
    return model


def trained(model: IARed2ViT) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_the_curriculum_goes_group_by_group() -> None:
    assert list(curriculum(2, 10, 20)) == [
        Phase(0, "policy", 10),
        Phase(0, "adapt", 20),
        Phase(1, "policy", 10),
        Phase(1, "adapt", 20),
    ]


def test_a_policy_phase_trains_one_interpreter_alone() -> None:
    model = small()
    open_for(model, Phase(1, "policy", 1))
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.rand(16, 3, 1, 16, 16), torch.randint(3, (16,))
    loss, figures = PolicyGradient().loss(model, pixels, labels, 1, generator)
    loss.backward()
    names = trained(model)
    assert names
    assert all(name.startswith("reducer.interpreters.1.") for name in names)
    assert 0 < figures["kept"] < 1
    assert any(p.grad.abs().sum() > 0 for p in model.reducer.interpreters[1].parameters())


def test_an_adaptation_phase_trains_the_blocks_behind() -> None:
    model = small()
    opened = open_for(model, Phase(1, "adapt", 1))
    adaptation_loss(model, torch.rand(4, 3, 1, 16, 16), torch.tensor([0, 1, 2, 0]), 1).backward()
    names = trained(model)
    assert {name.split(".")[0] for name in names} == {"blocks", "norm", "head"}
    assert all(name.startswith("blocks.1") for name in names if name.startswith("blocks"))
    assert len(opened) == len(names)


def test_weights_scale_a_groups_advantage() -> None:
    model, pixels, labels = small(), torch.rand(8, 3, 1, 16, 16), torch.randint(3, (8,))

    def loss(**options) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return PolicyGradient(**options).loss(model, pixels, labels, 1, generator)[0]

    torch.testing.assert_close(loss(weights=(1.0, 0.5)), loss() / 2)
    assert loss(beta=0.8) != loss()


def puzzle(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise with one patch whose colour is the class; the last class has none."""
    pixels = 0.5 + 0.1 * torch.randn(count, 3, 1, 16, 16, generator=generator)
    labels = torch.randint(4, (count,), generator=generator)
    place = torch.randint(16, (count,), generator=generator)
    for number in labels.lt(3).nonzero().flatten().tolist():
        row, column = divmod(int(place[number]), 4)
        patch = pixels[number, :, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        patch[labels[number]] += 1.0
    return pixels, labels, place


def test_an_interpreter_learns_which_patch_matters() -> None:
    generator = torch.Generator().manual_seed(0)
    model = small(groups=1, std=None, classes=4)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        pixels, labels, _ = puzzle(64, generator)
        x = model.embed(pixels)
        for block in model.blocks:
            x = block(x)
        optimiser.zero_grad()
        F.cross_entropy(model.classify(x), labels).backward()
        optimiser.step()
    optimiser = torch.optim.AdamW(open_for(model, Phase(0, "policy", 1)), 3e-3)
    objective = PolicyGradient(penalty=2.0)
    for _ in range(200):
        pixels, labels, _ = puzzle(64, generator)
        optimiser.zero_grad()
        objective.loss(model, pixels, labels, 0, generator)[0].backward()
        optimiser.step()
    pixels, labels, place = puzzle(512, generator)
    with torch.no_grad():
        taken = model.run(pixels)
    kept = taken.alive[0]

    def accuracy(logits: torch.Tensor) -> float:
        return float((logits.argmax(-1) == labels).float().mean())

    shared = kept[torch.randperm(512, generator=generator)]
    with torch.no_grad():
        careless = model.run(pixels, lambda scores, alive, number: shared)
    assert kept[:, 1:].gather(1, place[:, None])[labels < 3].float().mean() > 0.95
    assert kept[:, 1:].float().mean() < 0.6
    assert accuracy(taken.logits) > 0.95
    assert accuracy(careless.logits) < 0.8


def test_heat_maps_lie_in_range_and_fit_the_picture() -> None:
    model, pixels = small(), torch.rand(2, 3, 1, 16, 16)
    heat = heat_map(model, pixels)
    assert heat.shape == (2, 16, 16)
    assert heat.min() >= 0
    assert heat.max() <= 1
    scores = model.run(pixels).scores[0][:, 1:].clamp(min=0.48)
    raw = heat_map(model, pixels, 0)[:, 1::4, 1::4].flatten(1)
    assert torch.corrcoef(torch.stack([raw[0], scores[0]]).detach())[0, 1] > 0.7
    assert torch.equal(heat_map(model, pixels, least=1.0), torch.zeros(2, 16, 16))
    with pytest.raises(ConfigError, match="no group 2"):
        heat_map(model, pixels, 2)


def test_an_overlay_is_blue_where_cold_and_red_where_hot() -> None:
    pixels = torch.full((1, 3, 1, 1, 2), 0.5)
    shown = overlay(pixels, torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(shown[0, :, 0, 0, 0], torch.tensor([0.3, 0.3, 0.7]))
    torch.testing.assert_close(shown[0, :, 0, 0, 1], torch.tensor([0.7, 0.3, 0.3]))
