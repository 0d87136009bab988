"""How SwinBERT writes: a [MASK] behind the words so far is read, replaced by its word, and so on to [SEP].

```
video tokens ─► encoder ─► keys and values of every block ──┐ remembered
[CLS] w₁ … wᵢ ──────────────────────────────────────────────┘
wᵢ [MASK] ─► encoder beside them ─► logits at [MASK] ─► wᵢ₊₁      (wᵢ is read once more, as a word)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.backbones.picture_frames import check_source
from smalti.backbones.swinbert import SwinBERT
from smalti.errors import ConfigError
from smalti.nn.bert_encoder import Memory
from smalti.nn.sparse_attention_mask import BLOCKED


@runtime_checkable
class Tokenizer(Protocol):
    """What turns ids into words, such as BERT's uncased tokenizer of the transformers library."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Text of ids."""
        ...


@dataclass(frozen=True)
class Writing:
    """How captions are searched for.

    Attributes:
        length: most words, [CLS] and [SEP] among them; the last place is [SEP].
        beams: captions that are followed at a time; 1 takes the likeliest word each time.
        length_penalty: power of the length that a caption's log-likelihood is divided by.
        begin, end, mask, pad: ids of [CLS], [SEP], [MASK] and [PAD].
    """

    length: int = 20
    beams: int = 1
    length_penalty: float = 1.0
    begin: int = 101
    end: int = 102
    mask: int = 103
    pad: int = 0

    def __post_init__(self) -> None:
        if self.length < 2 or self.beams < 1:
            raise ConfigError(
                f"a caption has at least 2 words and 1 beam, not {self.length} and {self.beams}"
            )


class Written(NamedTuple):
    """Captions.

    Attributes:
        ids: [b n] from [CLS] to [SEP], then padding.
        likelihood: [b] sum of the words' log-likelihoods.
    """

    ids: Tensor
    likelihood: Tensor


@torch.no_grad()
def write(model: SwinBERT, pixels: Float[Tensor, "b 3 t h w"], how: Writing | None = None) -> Written:
    """Captions of videos in [0, 1], as ids.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: another number of video tokens than the model's mask has.
    """
    check_source(pixels)
    how = how or Writing()
    batch, beams = len(pixels), how.beams
    tokens = model.watch(model.normalise(pixels))
    _, memory = model.encoder.remember(tokens, model.attention_bias(tokens.shape[1]))
    memory = [Memory(*(part.repeat_interleave(beams, 0) for part in seen)) for seen in memory]
    ids = torch.full((batch * beams, how.length), how.pad, device=pixels.device)
    ids[:, 0] = how.begin
    done = torch.zeros(batch * beams, dtype=torch.bool, device=pixels.device)
    scores = torch.full((batch, beams), -torch.inf, device=pixels.device)
    scores[:, 0] = 0  # at first all beams of a video are the same
    for place in range(1, how.length):
        likelihood, memory = _next(model, ids[:, place - 1], place, memory, how)
        likelihood = _ended(likelihood, done, place == how.length - 1, how)
        total = scores[:, :, None] + likelihood.unflatten(0, (batch, beams))
        scores, best = total.flatten(1).topk(beams)
        origin = best // likelihood.shape[1] + torch.arange(batch, device=ids.device)[:, None] * beams
        rows = origin.flatten()
        ids, done = ids[rows], done[rows]
        memory = [Memory(*(part[rows] for part in seen)) for seen in memory]
        ids[:, place] = (best % likelihood.shape[1]).flatten()
        done |= ids[:, place] == how.end
        if done.all():
            break
    lengths = (ids == how.end).int().argmax(1) + 1
    chosen = (scores / lengths.view(batch, beams) ** how.length_penalty).argmax(1)
    rows = chosen + torch.arange(batch, device=ids.device) * beams
    return Written(ids[rows], scores.flatten()[rows])


def _next(
    model: SwinBERT, last: Int[Tensor, "r"], place: int, memory: list[Memory], how: Writing
) -> tuple[Float[Tensor, "r v"], list[Memory]]:
    """Log-likelihoods of the word at a place, and the memory with the word before it."""
    pair = torch.stack([last, torch.full_like(last, how.mask)], 1)
    seen = memory[0].keys.shape[2]
    bias = torch.zeros(1, 1, 2, seen + 2, device=last.device)
    bias[..., 0, -1] = BLOCKED
    out, grown = model.encoder.remember(model.words(pair, place - 1), bias, memory)
    kept = [Memory(*(part[:, :, :-1] for part in both)) for both in grown]
    return model.masked_words(out[:, 1]).float().log_softmax(-1), kept


def _ended(likelihood: Float[Tensor, "r v"], done: Tensor, last: bool, how: Writing) -> Float[Tensor, "r v"]:
    """Captions that are done go on with padding for nothing; all others end at the last place."""
    only = torch.full_like(likelihood, -torch.inf)
    if last:
        forced = only.clone()
        forced[:, how.end] = likelihood[:, how.end]
        likelihood = forced
    only[:, how.pad] = 0
    return torch.where(done[:, None], only, likelihood)


def caption(
    model: SwinBERT, pixels: Float[Tensor, "b 3 t h w"], tokenizer: Tokenizer, how: Writing | None = None
) -> list[str]:
    """Captions of videos in [0, 1], in words."""
    ids: Sequence[list[int]] = write(model, pixels, how).ids.tolist()
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
