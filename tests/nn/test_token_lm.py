from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.token_lm import TokenLM, drawer

LOGITS = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(4000, -1)


def shares(**options) -> torch.Tensor:
    drawn = drawer(generator=torch.Generator().manual_seed(0), **options)(LOGITS)
    return torch.bincount(drawn, minlength=4) / 4000


def test_draws_follow_the_odds() -> None:
    torch.testing.assert_close(shares(), torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(temperature=0.0), torch.tensor([1.0, 0, 0, 0]))
    sharper = torch.tensor([16.0, 9, 4, 1]) / 30
    torch.testing.assert_close(shares(temperature=0.5), sharper, atol=0.03, rtol=0)


def test_unlikely_codes_can_be_left_out() -> None:
    torch.testing.assert_close(shares(top_k=2), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(top_p=0.6), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(top_p=0.1), torch.tensor([1.0, 0, 0, 0]))


def test_a_context_is_read() -> None:
    model = TokenLM(16, 5, 16, 1, 2, 32, context=8).eval()
    torch.nn.init.normal_(model.output.weight)
    prefix, ids = torch.randn(1, 1, 16), torch.randint(16, (1, 4))
    one, other = (model(prefix, ids, torch.randn(1, 3, 8)) for _ in range(2))
    assert not torch.allclose(one, other)


def test_too_many_ids_and_guidance_from_nowhere_are_refused() -> None:
    model = TokenLM(16, 5, 16, 1, 2, 32)
    with pytest.raises(ConfigError, match="6 places are asked, but 5"):
        model(torch.randn(1, 1, 16), torch.randint(16, (1, 5)))
    with pytest.raises(ConfigError, match="lead away"):
        model.sample(torch.randn(1, 1, 16), 2, drawer(), guidance=2.0)
