"""How VIOLET learns: masked words, masked visual tokens, and which text belongs to a video.

```
video, text ─► hide ─► transformer ─► words at [MASK] ─► cross-entropy ───────────────┐
pixels ─► any tokenizer ─► ids of cells ─► guessed at hidden cells ─► cross-entropy ──┼─► loss
video with its text and 3 others ─► transformer ─► match / temperature ─► cross-entropy ┘
```
Official: AdamW of `OPTIMISER`, 5 epochs, 12 pairs a GPU, mixed precision; afterwards 1.2e-5 for 20 epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.backbones.picture_frames import frames_of
from smalti.backbones.violet import VIOLET
from smalti.backbones.violet_masking import Masking
from smalti.errors import ConfigError

OPTIMISER = {"lr": 2e-5, "betas": (0.9, 0.98), "weight_decay": 1e-3}
TEMPERATURE = 0.05


def cell_codes(
    encode: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "b 3 t h w"],
    cell: int = 32,
    patch: int = 8,
) -> Int[Tensor, "b t rows columns"]:
    """Ids of a tokenizer, one for every cell of a video in [0, 1].

    Args:
        encode: pictures [n 3 h w] → ids [n h/patch w/patch], such as DALL-E's dVAE.
        pixels: of whole cells.
        cell: pixels a side of what one id stands for.
        patch: pixels a side of what one id of the tokenizer stands for; frames are made that much smaller.

    Raises:
        ConfigError: pixels that are not whole cells, or a tokenizer of another grid.
    """
    frames, (height, width) = frames_of(pixels), pixels.shape[3:]
    if height % cell or width % cell:
        raise ConfigError(f"{height} × {width} pixels are not whole cells of {cell}")
    rows, columns = height // cell, width // cell
    small = F.interpolate(frames, (rows * patch, columns * patch), mode="bilinear", antialias=cell > patch)
    ids = encode(small)
    if ids.shape[1:] != (rows, columns):
        raise ConfigError(f"the tokenizer gave ids of {tuple(ids.shape[1:])}, not {(rows, columns)}")
    return rearrange(ids, "(b t) h w -> b t h w", b=len(pixels)).long()


def code_targets(codes: Int[Tensor, "b t h w"], cells: Bool[Tensor, "b t h w"]) -> Int[Tensor, "b n"]:
    """What video tokens are to be guessed as: −1 at class tokens and at cells that were seen."""
    targets = codes.masked_fill(~cells, -1).flatten(2)
    return F.pad(targets, (1, 0), value=-1).flatten(1)


def candidates(
    batch: int, count: int = 4, generator: torch.Generator | None = None
) -> Int[Tensor, "b count"]:
    """Texts for every video of a batch: its own first, then others, none twice; fewer in a small batch."""
    order = torch.rand(batch, batch, generator=generator)
    order.fill_diagonal_(-1)
    return order.argsort(1)[:, :count]


def match(
    model: VIOLET,
    video: Float[Tensor, "b n d"],
    text: Float[Tensor, "c m d"],
    mask: Bool[Tensor, "c m"],
    chosen: Int[Tensor, "b o"],
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "b o"]:
    """Logits of how well chosen texts fit a video.

    Args:
        model: with one output.
        video: tokens before the transformer.
        text: embeddings of words.
        mask: True where a word is real.
        chosen: numbers of texts for every video.
        temperature: that logits are divided by.

    Raises:
        ConfigError: a model that answers.
    """
    if model.config.outputs != 1:
        raise ConfigError(
            f"a model of {model.config.outputs} answers does not match texts: outputs must be 1"
        )
    chosen = chosen.to(text.device)
    flat = chosen.flatten()
    out = model.combine(video.repeat_interleave(chosen.shape[1], 0), text[flat], mask[flat])
    return model.head(out[:, video.shape[1]]).view_as(chosen) / temperature


def pair_scores(
    model: VIOLET,
    pixels: Float[Tensor, "b 3 t h w"],
    ids: Int[Tensor, "c m"],
    mask: Bool[Tensor, "c m"],
) -> Float[Tensor, "b c"]:
    """Logits of all texts for all videos in [0, 1]: to retrieve, and to train it by cross-entropy of rows."""
    video, text = model.watch(model.normalise(pixels)).tokens, model.words(ids)
    every = torch.arange(len(text)).expand(1, -1)
    return torch.cat([match(model, one[None], text, mask, every) for one in video])


def choose(
    model: VIOLET,
    pixels: Float[Tensor, "b 3 t h w"],
    ids: Int[Tensor, "b o m"],
    mask: Bool[Tensor, "b o m"],
) -> Float[Tensor, "b o"]:
    """Logits of options, each a text of question and option, for videos in [0, 1]."""
    video, text = model.watch(model.normalise(pixels)).tokens, model.words(ids.flatten(0, 1))
    chosen = torch.arange(len(text)).view(ids.shape[:2])
    return match(model, video, text, mask.flatten(0, 1), chosen, 1.0)


def guess_loss(logits: Float[Tensor, "k v"], targets: Int[Tensor, "k"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, 0 where nothing is to be guessed."""
    return F.cross_entropy(logits.float(), targets, reduction="sum") / max(len(targets), 1)


@dataclass(frozen=True)
class PretrainingObjective:
    """Masked words + masked visual tokens + matching.

    Attributes:
        masking: of the batch.
        texts: that a video is matched with, its own among them.
        temperature: of matching.
    """

    masking: Masking = field(default_factory=Masking)
    texts: int = 4
    temperature: float = TEMPERATURE

    def loss(
        self,
        model: VIOLET,
        pixels: Float[Tensor, "b 3 t h w"],
        ids: Int[Tensor, "b m"],
        real: Bool[Tensor, "b m"],
        codes: Int[Tensor, "b t rows columns"],
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss on videos in [0, 1], their texts and the ids of their cells; and its parts to log.

        Raises:
            ConfigError: a model without the heads of pretraining.
        """
        if model.masked_words is None or model.masked_codes is None:
            raise ConfigError("this model has no heads of pretraining: give `codes`")
        hidden = self.masking(model, pixels, ids, real, generator)
        video, text = model.watch(model.normalise(hidden.pixels)).tokens, model.words(hidden.ids)
        out = model.combine(video, text, real)
        targets = code_targets(codes, hidden.cells)
        at = targets >= 0
        guessed = model.masked_codes(out[:, : video.shape[1]][at])
        parts = {
            "words": guess_loss(
                model.masked_words(out[:, video.shape[1] :][hidden.words]), ids[hidden.words]
            ),
            "codes": guess_loss(guessed, targets[at]),
        }
        if len(pixels) > 1:
            chosen = candidates(len(pixels), self.texts, generator)
            fits = match(model, video, text, real, chosen, self.temperature)
            parts["match"] = guess_loss(fits, torch.zeros_like(fits[:, 0], dtype=torch.long))
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}
