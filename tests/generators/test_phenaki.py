from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError
from smalti.generators.phenaki import MaskGit, MaskGitConfig, SelfCritic, critic_loss, masked_loss

TINY = MaskGitConfig(codes=10, dim=16, depth=1, heads=2, dim_head=8, length=64, text=6)


def made(**changes: object) -> MaskGit:
    torch.manual_seed(0)
    return MaskGit(MaskGitConfig(**(vars(TINY) | changes))).eval()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randint(10, (batch, 3, 2, 2)), torch.randn(batch, 4, 6)


def test_every_token_gets_a_logit_for_every_code_but_none_for_mask() -> None:
    model, (ids, text) = made(), some()
    assert model(ids, text).shape == (2, 12, 10)
    assert model.mask_id == 10
    assert model(torch.full_like(ids, model.mask_id), text).isfinite().all()


def test_guidance_goes_through_both_answers() -> None:
    model, (ids, text) = made(), some()
    none = torch.zeros(2, 4, dtype=torch.bool)
    given, without = model(ids, text), model(ids, text, none)
    assert (given - without).abs().max() > 1e-4
    torch.testing.assert_close(model.guided(ids, text, None, 1.0), given)
    torch.testing.assert_close(model.guided(ids, text, None, 0.0), without)
    torch.testing.assert_close(model.guided(ids, text, None, 3.0), 3 * given - 2 * without)


def test_padding_of_videos_and_texts_is_not_read() -> None:
    model, (ids, text) = made(), some()
    read = torch.tensor([[True, True, False, False]]).expand(2, -1)
    torch.testing.assert_close(model(ids, text, read), model(ids, text[:, :2]))
    real = torch.arange(12).expand(2, -1) < 8
    torch.testing.assert_close(model(ids, text, None, real)[:, :8], model(ids[:, :2], text))


def test_loss_is_of_hidden_tokens_and_hides_by_the_cosine() -> None:
    model, (ids, text) = made(), some(64)
    loss, logits, hidden = masked_loss(model, ids, text, drop=0.0, random=random())
    picked = torch.nn.functional.cross_entropy(logits[hidden], ids.flatten(1)[hidden])
    torch.testing.assert_close(loss, picked)
    ratio = torch.cos(torch.rand(64, 1, generator=random()) * math.pi / 2)
    assert torch.equal(hidden.sum(1), (ratio[:, 0] * 12).ceil().long().clamp(1))
    shown = torch.where(hidden, model.mask_id, ids.flatten(1)).view_as(ids)
    torch.testing.assert_close(logits, model(shown, text))


def test_dropped_texts_are_not_read() -> None:
    model, (ids, text) = made(), some(8)
    first = masked_loss(model, ids, text, drop=1.0, random=random())[0]
    torch.testing.assert_close(masked_loss(model, ids, -text, drop=1.0, random=random())[0], first)
    kept = masked_loss(model, ids, text, drop=0.0, random=random())[0]
    assert (masked_loss(model, ids, -text, drop=0.0, random=random())[0] - kept).abs() > 1e-4


def test_embeddings_get_a_tenth_of_the_gradient() -> None:
    (ids, text), gradients = some(), []
    for shrink in (1.0, 0.1):
        model = made(shrink=shrink)
        masked_loss(model, ids, text, random=random())[0].backward()
        gradients.append((model.token_emb.weight.grad, model.to_logits.weight.grad))
    torch.testing.assert_close(0.1 * gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_every_parameter_learns() -> None:
    model, (ids, text) = made(), some(16)
    masked_loss(model, ids, text, drop=0.5, random=random())[0].backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not silent


@pytest.mark.parametrize("own", [False, True])
def test_a_critic_learns_which_tokens_were_drawn(own) -> None:
    generator, (ids, _) = made(text=0), some(32)
    ids = ids[:, :1, :1, :1].expand_as(ids) % 3  # true videos have one code throughout
    critic = SelfCritic(generator) if own else made(text=0, outputs=1, place_bias=False)
    logits, hidden = torch.zeros(32, 12, 10), torch.rand(32, 12, generator=random()) < 0.3
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss = critic_loss(critic, ids, logits, hidden, random=random(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_what_does_not_fit_is_refused() -> None:
    model, (ids, text) = made(), some()
    with pytest.raises(ConfigError, match="needs text"):
        model(ids)
    with pytest.raises(ConfigError, match=r"0\.\.10"):
        model(ids + 10, text)
    with pytest.raises(ConfigError, match="places for 64"):
        model(ids.repeat(1, 6, 1, 1), text)
    with pytest.raises(ConfigError, match="token_emb"):
        MaskGit.from_official({"other": torch.ones(1)})
