from __future__ import annotations

import pytest
import torch

from smalti.nn.latent_autoencoder import LatentAutoencoder, LatentAutoencoderConfig


def test_with_four_channels_it_has_the_83_65_million_weights_of_stable_diffusion() -> None:
    with torch.device("meta"):
        weights = sum(p.numel() for p in LatentAutoencoder(LatentAutoencoderConfig(4)).parameters())
    assert weights == 83_653_863


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_latents_are_an_eighth_of_the_size_and_scaled(scale: float) -> None:
    model = LatentAutoencoder(LatentAutoencoderConfig(4, (8, 8, 16, 16), 1, 4, scale)).eval()
    pictures = torch.rand(1, 3, 16, 24)
    mean, log_variance = model.posterior(pictures)
    latents = model.encode(pictures)
    assert latents.shape == log_variance.shape == (1, 4, 2, 3)
    torch.testing.assert_close(latents, mean * scale)
    back = model.decode(latents)
    assert back.shape == pictures.shape
    torch.testing.assert_close(back, model.decoder(model.before_decoder(mean)))
