"""Discriminators of frames and of clips."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.discriminators import discriminator


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_discriminators_of_clips_judge_any_length(frames: int) -> None:
    pixels = torch.rand(2, 3, frames, 32, 40)
    assert discriminator("style-3d", 8, 3)(pixels).logits.shape == (2, 1)
    assert discriminator("style", 8, 3)(pixels).logits.shape == (2 * frames, 1)
    assert discriminator("transformer-3d", 16, 1)(pixels).logits.shape == (2, max(frames // 4, 1) * 20)


def test_a_discriminator_of_clips_sees_the_order_of_frames() -> None:
    pixels = torch.rand(2, 3, 5, 32, 32)
    clip, style = discriminator("style-3d", 8, 2), discriminator("style", 8, 2)
    turned = pixels.flip(2)
    assert not torch.allclose(clip(pixels).logits, clip(turned).logits, atol=1e-5)
    of_frames = (style(x).logits.unflatten(0, (2, 5)) for x in (pixels, turned))
    torch.testing.assert_close(next(of_frames), next(of_frames).flip(1))


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'style-3d'"):
        discriminator("style3d", 8, 2)
