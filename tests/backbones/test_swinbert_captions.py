"""Captions: the memory gives what reading everything again gives; beams, ends, words."""

from __future__ import annotations

import pytest
import torch

from smalti.backbones.swinbert import SwinBERT
from smalti.backbones.swinbert_captions import Writing, caption, write
from smalti.errors import ConfigError, MediaError
from tests.backbones.test_swinbert import build, pixels


def likelihoods(model: SwinBERT, video: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of the next word, everything read again."""
    tokens = model.watch(model.normalise(video))
    masked = torch.cat([ids, torch.full_like(ids[:, :1], 103)], 1)
    return model.tell(tokens.expand(len(ids), -1, -1), masked)[:, -1].log_softmax(-1)


@torch.no_grad()
def test_one_beam_takes_the_likeliest_word_each_time() -> None:
    model, video = build(), pixels()
    written = write(model, video, Writing(length=8))
    for row in range(2):
        ids, total = torch.tensor([[101]]), 0.0
        for place in range(1, 8):
            found = likelihoods(model, video[row : row + 1], ids)[0]
            word = 102 if place == 7 else int(found.argmax())
            total += float(found[word])
            ids = torch.cat([ids, torch.tensor([[word]])], 1)
            if word == 102:
                break
        expected = torch.nn.functional.pad(ids[0], (0, 8 - ids.shape[1]))
        assert torch.equal(written.ids[row], expected)
        assert float(written.likelihood[row]) == pytest.approx(total, abs=1e-3)


@torch.no_grad()
def test_as_many_beams_as_captions_find_the_best_of_all() -> None:
    model, video = build(), pixels(1, 3, 4, 24, 24)
    first = likelihoods(model, video, torch.tensor([[101]]))[0]
    starts = torch.stack([torch.full((200,), 101), torch.arange(200)], 1)
    second = likelihoods(model, video, starts)[:, 102]
    total = first + second
    total[102] = first[102]
    written = write(model, video, Writing(length=3, beams=200, length_penalty=0.0))
    assert int(written.ids[0, 1]) == int(total.argmax())
    assert float(written.likelihood[0]) == pytest.approx(float(total.max()), abs=1e-3)


@torch.no_grad()
def test_a_caption_that_ends_stays_as_it_is() -> None:
    model = build()
    model.masked_words.decoder.bias[102] = 1e4
    for beams in (1, 3):
        ids = write(model, pixels(), Writing(length=5, beams=beams)).ids
        assert ids.tolist() == [[101, 102, 0, 0, 0]] * 2
    model.masked_words.decoder.bias[102] = -1e4
    ids = write(model, pixels(), Writing(length=5)).ids
    assert ids[:, -1].tolist() == [102, 102]
    assert not (ids[:, :-1] == 102).any()


def test_words_come_from_the_tokenizer() -> None:
    class Spelling:
        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return " ".join(f"w{i}" for i in token_ids if i not in (0, 101, 102))

    model = build()
    spoken = caption(model, pixels(), Spelling(), Writing(length=4))
    ids = write(model, pixels(), Writing(length=4)).ids
    assert len(spoken) == 2
    assert all(text.split() for text in spoken)
    assert ids.shape == (2, 4)


def test_what_cannot_be_written_is_refused() -> None:
    for options in ({"length": 1}, {"beams": 0}):
        with pytest.raises(ConfigError):
            Writing(**options)
    with pytest.raises(MediaError):
        write(build(), torch.full((1, 3, 4, 24, 24), torch.nan))
