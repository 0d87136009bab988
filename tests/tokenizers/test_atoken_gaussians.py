from __future__ import annotations

import pytest
import torch

from smalti.nn.packed_sets import PackedSets, packed
from smalti.tokenizers.atoken_gaussians import GaussianDecoder, hammersley

SIZES = {"channels": 10, "dim": 32, "depth": 2, "heads": 2, "hidden": 40, "gaussians": 4}


@pytest.fixture
def decoder() -> GaussianDecoder:
    return GaussianDecoder(**SIZES).eval()


def voxels(*places: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    where = torch.tensor([(1, *place) for place in places])
    return torch.randn(len(places), 16), where


def test_points_are_spread_in_base_two_and_three() -> None:
    expected = [[0, 0, 0], [1 / 4, 1 / 2, 1 / 3], [1 / 2, 1 / 4, 2 / 3], [3 / 4, 3 / 4, 1 / 9]]
    torch.testing.assert_close(hammersley(4), torch.tensor(expected))


def test_at_the_start_gaussians_are_small_upright_and_spread_around_their_voxel(decoder) -> None:
    (found,) = decoder(packed([voxels((0, 0, 0), (63, 31, 8))]))
    assert found.centres.shape == (8, 3)
    torch.testing.assert_close(found.scales, torch.full((8, 3), (4e-3**2 + 9e-4**2) ** 0.5))
    torch.testing.assert_close(found.opacities, torch.full((8, 1), 0.1))
    torch.testing.assert_close(found.rotations, torch.tensor([1.0, 0, 0, 0]).expand(8, 4))
    middle = (torch.tensor([63, 31, 8]) + 0.5) / 64 - 0.5
    offset = (found.centres[4:] - middle) * 64
    torch.testing.assert_close(offset, hammersley(4) - 0.5, atol=1e-4, rtol=0)  # 1.5 / 2 · (2 p - 1) / 1.5


def test_voxels_see_their_window_and_in_the_next_block_the_shifted_one(decoder) -> None:
    torch.nn.init.normal_(decoder.leave.weight)
    batch = packed([voxels((0, 0, 0), (7, 0, 0), (8, 0, 0), (20, 0, 0))])
    changed = batch.features.clone()
    changed[0] += torch.randn(16)
    given = (batch.features, changed)
    before, after = (decoder(batch.holding(x))[0].colours.unflatten(0, (4, 4)) for x in given)
    moved = [not torch.allclose(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, True, False]  # 0 tells 7, then 7 tells 8; 20 is alone


def test_objects_of_a_batch_do_not_meet_and_their_order_does_not_matter(decoder) -> None:
    torch.nn.init.normal_(decoder.leave.weight)
    one, other = voxels((0, 0, 0), (3, 2, 1)), voxels((1, 1, 1), (5, 5, 5), (9, 9, 9))
    together = decoder(packed([one, other]))
    for found, alone in zip(together, (one, other), strict=True):
        torch.testing.assert_close(found.colours, decoder(packed([alone]))[0].colours)
    features, places = other
    turned = decoder(packed([(features.flip(0), places.flip(0))]))[0].centres.unflatten(0, (3, 4))
    torch.testing.assert_close(turned.flip(0).flatten(0, 1), together[1].centres)


def test_an_official_checkpoint_loads(decoder) -> None:
    names = (("enter.", "input_layer."), ("leave.", "out_layer."), (".mlp.", ".mlp.mlp."))
    names += ((".attn.proj", ".attn.to_out"), (".attn.qkv", ".attn.to_qkv"))
    state = {"lpips_loss.net.weight": torch.zeros(1)}
    for name, tensor in decoder.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        state[name] = tensor
    loaded = GaussianDecoder.from_official(state, heads=2).eval()
    assert loaded.config == decoder.config
    batch = PackedSets(torch.randn(1, 10), torch.zeros(1, 5, dtype=torch.long))
    torch.testing.assert_close(loaded(batch)[0].centres, decoder(batch)[0].centres)


def test_the_official_size_has_448_numbers_a_voxel() -> None:
    with torch.device("meta"):
        decoder = GaussianDecoder()
    assert decoder.leave.out_features == 448
    weights = sum(p.numel() for p in decoder.parameters())
    assert weights == pytest.approx(12 * 12 * 768**2, rel=0.02)
