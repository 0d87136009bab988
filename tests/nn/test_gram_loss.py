from __future__ import annotations

import torch

from smalti.nn.gram_loss import gram, gram_loss


def test_it_is_the_mean_product_of_channels() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    torch.testing.assert_close(gram(maps), torch.tensor([[[5.0, 1.0], [1.0, 10.0]]]) / 4)


def test_places_may_change_but_not_how_channels_go_together() -> None:
    maps = torch.randn(2, 3, 4, 4)
    moved = maps.flatten(2)[..., torch.randperm(16)].view_as(maps)
    torch.testing.assert_close(gram_loss([maps], [moved]), torch.tensor(0.0))
    assert gram_loss([maps], [maps * 0.5]) > 1e-4


def test_it_gives_back_the_contrast_that_a_mean_loses() -> None:
    """Noise that cannot be foretold: by L1 alone flat is best, with Gram its own strength is."""
    wanted = torch.randn(8, 3, 16, 16)
    guess, strength = torch.randn(8, 3, 16, 16), torch.tensor(0.2, requires_grad=True)
    optimizer = torch.optim.Adam([strength], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        flat = (strength * guess - wanted).abs().mean()
        (flat + 100 * gram_loss([strength * guess], [wanted])).backward()
        optimizer.step()
    assert 0.9 < strength.item() < 1.1
