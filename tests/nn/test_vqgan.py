from __future__ import annotations

import pytest
import torch

from smalti.nn.vqgan import MaskGITDecoder, MaskGITEncoder, ResidualConv, VQGANDecoder, VQGANTrunk


@pytest.mark.parametrize("levels", [(1, 2), (1, 1, 2)])
def test_sizes_fall_by_two_for_every_level_but_one(levels) -> None:
    factor = 2 ** (len(levels) - 1)
    pictures = torch.rand(1, 3, 16, 24)
    maps = VQGANTrunk(8, levels, 1, 4)(pictures)
    assert maps.shape == (1, 16, 16 // factor, 24 // factor)
    assert VQGANDecoder(5, 8, levels, 1, 4)(maps[:, :5]).shape == pictures.shape
    latents = MaskGITEncoder(5, 32, levels, 1)(pictures)
    assert latents.shape == (1, 5, 16 // factor, 24 // factor)
    assert MaskGITDecoder(5, 32, levels, 1)(latents).shape == pictures.shape


def test_maskgits_shortcut_starts_from_the_branch() -> None:
    x = torch.randn(1, 4, 5, 5)
    for maskgit in (False, True):
        block = ResidualConv(4, 8, 2, maskgit)
        torch.nn.init.zeros_(block.conv2.weight)
        if block.conv2.bias is not None:
            torch.nn.init.zeros_(block.conv2.bias)
        assert bool(block(x).abs().max() > 0) is not maskgit
        assert (block.conv1.bias is None) is maskgit


def test_attention_reaches_the_whole_map() -> None:
    trunk = VQGANTrunk(8, (1, 2), 1, 4)
    pictures = torch.zeros(1, 3, 64, 64)
    changed = pictures.clone()
    changed[..., :2, :2] = 1
    moved = (trunk(changed) - trunk(pictures)).abs().amax(1)[0]
    assert moved[-1, -1] > 0
