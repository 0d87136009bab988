"""What VQToken's discrete process promises."""

import pytest
import torch
from torch.nn import functional as F

import smalti
from smalti.errors import ConfigError
from smalti.reducers import Context
from smalti.reducers.vqtoken import VQToken, VQTokenConfig, choose


def scene(groups, frames=4, side=6, seed=0):
    """A film of textures that stand still, and the texture of every token."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randn(groups, 24, generator=random)
    label = (torch.arange(side * side) * groups // side**2).repeat(frames)
    return (kinds[label] + 0.05 * torch.randn(len(label), 24, generator=random))[None], label[None]


def test_bounds():
    tokens = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    one = smalti.create("vqtoken", room="reducers", codes=1).reduce(tokens, Context())
    torch.testing.assert_close(one.apply(tokens), tokens.mean(1, keepdim=True))
    all_of_them = VQToken(VQTokenConfig(codes=12)).reduce(tokens, Context())
    assert torch.equal(all_of_them.restore(all_of_them.apply(tokens)), tokens)


def test_the_mean_is_kept():
    tokens = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    mass = torch.rand(2, 60) + 0.5
    found = VQToken().reduce(tokens, Context(mass=mass), 9)
    assert found.mask.all()
    torch.testing.assert_close(found.mass.sum(1), mass.sum(1))
    mean = (found.apply(tokens) * found.mass[..., None]).sum(1) / found.mass.sum(1, keepdim=True)
    torch.testing.assert_close(mean, (tokens * mass[..., None]).sum(1) / mass.sum(1, keepdim=True))


@pytest.mark.parametrize("criterion", ["elbow", "silhouette"])
@pytest.mark.parametrize("groups", [6, 9])
def test_planted_textures_are_found(criterion, groups):
    tokens, label = scene(groups)
    config = VQTokenConfig(codes=None, least=3, most=14, criterion=criterion)
    found = VQToken(config).reduce(tokens, Context())
    assert found.count == groups
    assert torch.equal(found.source_map, label)  # numbered by first tokens, the same in every frame


def test_adaptive_batches_are_ragged_and_apart():
    tokens = torch.cat([scene(5)[0], scene(9)[0]])
    reducer = VQToken(VQTokenConfig(codes=None, least=3, most=14))
    found = reducer.reduce(tokens, Context())
    assert found.mask.sum(1).tolist() == [5, 9]
    assert torch.equal(reducer.reduce(tokens[:1], Context()).source_map, found.source_map[:1])


def test_choices():
    curve = torch.tensor([[10.0, 8.0, 6.0, 4.0, 3.9, 3.8, 3.7]])
    assert choose(curve, 12, "elbow").item() == 15
    assert choose(curve, 12, "elbow_official").item() == 12
    late = torch.cat([torch.linspace(40, 21, 20), torch.tensor([20.0, 20.0])])[None]
    assert choose(late, 12, "elbow_official").item() == 19 + 4
    assert choose(-curve, 12, "silhouette").item() == 18


def test_equal_tokens_and_protected_ones():
    tokens = torch.ones(2, 20, 4)
    found = VQToken().reduce(tokens, Context(protected=2), 7)
    assert found.mask.all()
    assert torch.equal(found.source_map[:, :2], torch.tensor([[0, 1]] * 2))
    torch.testing.assert_close(found.apply(tokens), tokens[:, :7])
    assert VQToken().reduce(tokens, Context(protected=2), 2).apply(tokens).shape[1] == 2


def test_lengths_do_not_matter_and_halves_are_taken():
    tokens = torch.randn(1, 60, 8, generator=torch.Generator().manual_seed(0))
    longer = tokens * (torch.rand(1, 60, 1) + 0.5)
    group = VQToken().reduce(tokens, Context(), 9).source_map
    assert torch.equal(VQToken().reduce(longer, Context(), 9).source_map, group)
    half = VQToken().reduce(tokens.half(), Context(), 9)
    assert half.apply(tokens.half()).dtype == torch.float16
    assert torch.equal(VQToken().reduce(F.normalize(tokens, dim=-1), Context(), 9).source_map, group)


@pytest.mark.parametrize("wrong", [{"least": 0}, {"least": 9, "most": 8}, {"codes": 0}])
def test_contradictions_are_refused(wrong):
    with pytest.raises(ConfigError):
        VQTokenConfig(**wrong)
