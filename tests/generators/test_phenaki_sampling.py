from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError
from smalti.generators.phenaki import MaskGit, MaskGitConfig, masked_loss
from smalti.generators.phenaki_sampling import hidden_at, sample, story
from tests.tokenizers.tiny_phenaki import TINY

GRID = (3, 2, 2)


class Watched(MaskGit):
    """Notes what it is asked."""

    def __init__(self, **changes: object) -> None:
        torch.manual_seed(0)
        options = {"codes": 10, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "length": 64, "text": 0}
        super().__init__(MaskGitConfig(**(options | changes)))
        self.asked: list[Tensor] = []
        self.weights: list[float] = []
        self.eval()

    def guided(self, ids, text=None, read=None, guidance=3.0):
        self.asked.append(ids)
        self.weights.append(guidance)
        return super().guided(ids, text, read, guidance)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_hidden_fall_as_a_cosine() -> None:
    model = Watched()
    tokens = sample(model, GRID, n=2, steps=6, random=random())
    for step, ids in enumerate(model.asked):
        expected = max(round(12 * math.cos(math.pi / 2 * step / 6)), 1)
        assert hidden_at(step, 6, 12) == expected
        assert ((ids == 10).flatten(1).sum(1) == expected).all()
    assert tokens.ids.shape == (2, 12, 1)
    assert tokens.grid == GRID
    assert (tokens.ids < 10).all()


def test_without_a_critic_tokens_once_shown_stay() -> None:
    model = Watched()
    final = sample(model, GRID, n=3, steps=8, random=random()).ids[..., 0]
    for ids in model.asked:
        flat = ids.flatten(1)
        shown = flat != 10
        assert torch.equal(flat[shown], final[shown])


def test_a_critic_may_hide_any_new_token_again() -> None:
    class Strict(Watched):
        """Finds the first new token false at every step."""

        def guided(self, ids, text=None, read=None, guidance=3.0):
            scores = torch.zeros(len(ids), ids[0].numel(), 1)
            scores[:, 4] = 1
            return scores

    model = Watched()
    prefix = torch.randint(10, (1, 1, 2, 2))
    sample(model, GRID, prefix=prefix, steps=6, critic=Strict(outputs=1), noise=0.0, random=random())
    for ids in model.asked[1:]:
        assert ids.flatten(1)[0, 4] == 10
        assert torch.equal(ids[:, :1], prefix)


def test_a_prefix_stays() -> None:
    model, prefix = Watched(), torch.randint(10, (2, 1, 2, 2))
    tokens = sample(model, GRID, prefix=prefix, steps=3, random=random())
    assert torch.equal(tokens.ids[:, :4, 0], prefix.flatten(1))
    assert all(((ids == 10).flatten(1).sum(1) <= 8).all() for ids in model.asked)
    for wrong in (torch.zeros(1, 3, 2, 2, dtype=torch.long), torch.zeros(1, 1, 2, 3, dtype=torch.long)):
        with pytest.raises(ConfigError, match="prefix"):
            sample(model, GRID, prefix=wrong)


def test_the_same_chance_gives_the_same_video() -> None:
    model = Watched()
    first, again, other = (sample(model, GRID, steps=4, random=random(seed)).ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_guidance_may_rise() -> None:
    model = Watched(text=6)
    sample(model, GRID, torch.randn(1, 4, 6), steps=5, guidance=(1.0, 12.0), random=random())
    assert model.weights == pytest.approx([1.0, 3.75, 6.5, 9.25, 12.0])


def test_a_generator_learns_to_do_as_the_text_says() -> None:
    model = Watched(codes=6, text=2)
    texts = torch.eye(2)[:, None]
    videos = torch.tensor([1, 4])[:, None, None, None].expand(-1, *GRID)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    chance = random()
    for _ in range(80):
        loss = masked_loss(model, videos.repeat(8, 1, 1, 1), texts.repeat(8, 1, 1), random=chance)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = sample(model, GRID, texts, steps=6, random=chance).ids[..., 0]
    assert (made == videos.flatten(1)).float().mean() > 0.95


def test_a_story_goes_on_from_its_last_frames() -> None:
    torch.manual_seed(0)
    tokenizer = smalti.create("phenaki", room="tokenizers", **TINY).eval()
    model = Watched(codes=64, text=6, length=64)
    texts = [torch.randn(1, 4, 6) for _ in range(3)]
    start = torch.rand(1, 3, 3, 8, 8)
    options = {"frames": 5, "remembered": 3, "steps": 2, "random": random()}
    video = story(model, tokenizer, texts, (8, 8), start=start, **options)
    assert video.shape == (1, 3, 3 + 3 * 4, 8, 8)
    assert torch.equal(video[:, :, :3], start)
    prefix = tokenizer.encode(start).ids.view(1, 2, 2, 2)
    assert torch.equal(model.asked[0][:, :2], prefix)
    later = tokenizer.encode_part(video[:, :, 4:7], {})[..., 0]
    assert torch.equal(model.asked[2][:, :2], later)


def test_a_story_may_begin_with_nothing() -> None:
    torch.manual_seed(0)
    tokenizer, model = smalti.create("phenaki", room="tokenizers", **TINY).eval(), Watched(codes=64, text=6)
    texts = [torch.randn(2, 4, 6)] * 2
    assert story(model, tokenizer, texts, (8, 12), frames=5, steps=2).shape == (2, 3, 9, 8, 12)
    with pytest.raises(ConfigError, match="remembered"):
        story(model, tokenizer, texts, (8, 12), frames=5, remembered=4)
    with pytest.raises(ConfigError, match="at least one"):
        story(model, tokenizer, [], (8, 12), frames=5)
