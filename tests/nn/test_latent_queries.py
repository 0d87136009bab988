from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.latent_queries import LatentQueryEncoder, MaskedPlacesDecoder, TowerConfig

TOWER = TowerConfig(16, 2, 2)


def test_every_query_reads_every_patch() -> None:
    encoder = LatentQueryEncoder(TOWER, 2, 4, 3, 5)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pictures = torch.rand(1, 3, 8, 8, requires_grad=True)
    latents = encoder(pictures)
    assert latents.shape == (1, 3, 5)
    for query in range(3):
        (gradient,) = torch.autograd.grad(latents[0, query].sum(), pictures, retain_graph=True)
        assert (gradient.abs().sum(1) > 0).all()


def test_scrambling_reads_rows_as_channels() -> None:
    torch.manual_seed(0)
    plain = LatentQueryEncoder(TOWER, 2, 4, 3, 5)
    mixed = LatentQueryEncoder(TOWER, 2, 4, 3, 5, scrambled=True)
    mixed.load_state_dict(plain.state_dict())
    given: list[torch.Tensor] = []
    plain.ln_post.register_forward_hook(lambda *what: given.append(what[2]))
    pictures = torch.rand(2, 3, 8, 8)
    plain(pictures)
    wanted = torch.einsum("bwk,dw->bkd", given[0].reshape(2, 16, 3), plain.out.weight) + plain.out.bias
    torch.testing.assert_close(mixed(pictures), wanted)


def test_what_a_sample_does_not_keep_it_does_not_read() -> None:
    decoder = MaskedPlacesDecoder(TOWER, 2, 6, 5).eval()
    latents = torch.randn(2, 6, 5)
    places = decoder(latents, torch.tensor([2, 6]))
    assert places.shape == (2, 4, 16)
    torch.testing.assert_close(places[:1], decoder(latents[:1, :2]))
    torch.testing.assert_close(places[1:], decoder(latents[1:]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="3 heads do not divide 16"):
        TowerConfig(16, 1, 3)
