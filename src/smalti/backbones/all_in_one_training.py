"""How All in One learns: masked words, matching with word-patch alignment, retrieval, answers, choices.

```
video, masked text ─► joint ─► text [b l d] ─► words                                   cross-entropy
video or another, text ─► joint ─► pooled ─► yes or no; words ⇄ patches                + 0.1 × transport
video; text ─► one by one ─► [b e], [b e] ─► cosines / 0.05                            both ways
video, texts of a question ─► joint ─► pooled ─► one score each                        cross-entropy
```
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.all_in_one import AllInOne, Joint
from smalti.errors import ConfigError
from smalti.nn.proximal_transport import transport_distance

IGNORED = -100


class MaskedText(NamedTuple):
    """Attributes:
    ids: [b l] with some words hidden.
    labels: [b l] what they were, −100 elsewhere.
    """

    ids: Tensor
    labels: Tensor


def mask_words(
    ids: Int[Tensor, "b l"],
    vocabulary: int,
    *,
    share: float = 0.15,
    mask_id: int = 103,
    special: tuple[int, ...] = (0, 101, 102, 103),
    words: Int[Tensor, "b l"] | None = None,
    generator: torch.Generator | None = None,
) -> MaskedText:
    """Hide some tokens as BERT does: 80 % become [MASK], 10 % any token, 10 % stay.

    Args:
        ids: of a text.
        vocabulary: ids that there are.
        share: of tokens that are hidden.
        mask_id: of [MASK].
        special: ids that are never hidden.
        words: number of the word that every token is part of; its tokens are hidden together.
        generator: of the draw.
    """

    def draw(*shape: int) -> Float[Tensor, "..."]:
        return torch.rand(*shape, generator=generator).to(ids.device)

    chance, way = draw(*ids.shape), draw(*ids.shape)
    if words is not None:
        chance, way = chance.gather(1, words), way.gather(1, words)
    hidden = (chance < share) & ~torch.isin(ids, torch.tensor(special, device=ids.device))
    other = torch.randint(vocabulary, ids.shape, generator=generator).to(ids)
    masked = torch.where(way < 0.8, torch.full_like(ids, mask_id), torch.where(way < 0.9, other, ids))
    return MaskedText(torch.where(hidden, masked, ids), torch.where(hidden, ids, IGNORED))


def masked_words_loss(
    model: AllInOne,
    pixels: Float[Tensor, "b 3 t h w"],
    text: MaskedText,
    mask: Bool[Tensor, "b l"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of hidden words; zero where none is."""
    head = _head(model.masked_words, "words_head")
    joint = model.encode(pixels, text.ids, mask)
    hidden = text.labels != IGNORED
    logits = head(_tokens(joint.text)[hidden])
    return F.cross_entropy(logits, text.labels[hidden], reduction="sum") / hidden.sum().clamp(min=1)


def matching_loss(
    model: AllInOne,
    pixels: Float[Tensor, "b 3 t h w"],
    ids: Int[Tensor, "b l"],
    mask: Bool[Tensor, "b l"] | None,
    matches: Bool[Tensor, "b"],
    alignment: float = 0.1,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Whether videos and texts belong together, and how far words are from patches.

    Args:
        model: with a head for it.
        pixels: videos, of which half are another text's.
        ids: texts.
        mask: True for words.
        matches: whether the video is the text's own.
        alignment: weight of the transport, which is to be short for pairs and long for others.
    """
    joint = model.encode(pixels, ids, mask)
    logits = _head(model.match, "match_head")(joint.pooled)
    entropy = F.cross_entropy(logits, matches.long())
    far = alignment_distance(joint)
    transport = torch.where(matches, far, -far).mean()
    accuracy = (logits.argmax(-1) == matches.long()).float().mean()
    parts = {"match": entropy.detach(), "transport": transport.detach(), "accuracy": accuracy}
    return entropy + alignment * transport, parts


def alignment_distance(joint: Joint) -> Float[Tensor, "b"]:
    """Transport from words without [CLS] and [SEP] to patches without the class token."""
    words, patches = (_tokens(mask).clone() for mask in (joint.text_mask, joint.video_mask))
    last = words.sum(1, keepdim=True) - 1
    words = words.scatter(1, last.clamp(min=0), False)
    words[:, 0] = patches[:, 0] = False
    return transport_distance(_tokens(joint.text), _tokens(joint.video), words, patches)


def retrieval_loss(
    text: Float[Tensor, "b e"], video: Float[Tensor, "b e"], temperature: float = 0.05
) -> Float[Tensor, ""]:
    """Cross-entropy from texts to videos plus that from videos to texts; pairs stand in the same row."""
    cosines = F.normalize(text.float(), dim=-1) @ F.normalize(video.float(), dim=-1).mT / temperature
    truth = torch.arange(len(cosines), device=cosines.device)
    return F.cross_entropy(cosines, truth) + F.cross_entropy(cosines.mT, truth)


def answer_loss(
    model: AllInOne,
    pixels: Float[Tensor, "b 3 t h w"],
    ids: Int[Tensor, "b l"],
    mask: Bool[Tensor, "b l"] | None,
    answers: Int[Tensor, "b"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the answers to open questions."""
    return F.cross_entropy(_head(model.answer, "answers")(model.encode(pixels, ids, mask).pooled), answers)


def choice_scores(
    model: AllInOne,
    pixels: Float[Tensor, "b 3 t h w"],
    ids: Int[Tensor, "b o l"],
    mask: Bool[Tensor, "b o l"] | None = None,
) -> Float[Tensor, "b o"]:
    """A score for each of several texts; cross-entropy over them is the loss."""
    options = ids.shape[1]
    videos = pixels.repeat_interleave(options, 0)
    joint = model.encode(videos, ids.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
    return _head(model.rank, "rank_head")(joint.pooled).view(-1, options)


@torch.no_grad()
def rank_from_match(model: AllInOne) -> None:
    """Start the head that ranks as the "yes" of the head that matches."""
    rank, match = _head(model.rank, "rank_head"), _head(model.match, "match_head")
    rank.weight.copy_(match.weight[1:])
    rank.bias.copy_(match.bias[1:])


def parameter_groups(
    model: AllInOne, rate: float = 1e-4, decay: float = 0.01, heads: float = 10.0
) -> list[dict[str, Any]]:
    """For AdamW: heads at a multiple of the rate; no decay for biases, norms and single vectors."""
    names = ("masked_words.", "match.", "text_projection.", "video_projection.", "answer.", "rank.")
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (name.startswith(names), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": part, "lr": rate * (heads if head else 1), "weight_decay": decay if matrix else 0.0}
        for (head, matrix), part in groups.items()
    ]


def _head(head: Any, field: str) -> Any:
    if head is None:
        raise ConfigError(f"this loss needs a head: choose a configuration with {field!r}")
    return head


def _tokens(part: Tensor | None) -> Tensor:
    if part is None:
        raise ConfigError("this loss needs both a video and a text")
    return part
