"""How SwinBERT learns: words of captions are masked and guessed; the mask of attention is drawn to be sparse.

```
caption ─► half of its words masked ─► logits ─► cross-entropy at masked words ──┐
                                  learned mask ─► mean off the diagonal ─► · λ ──┴─► loss
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalti.backbones.swinbert import SwinBERT
from smalti.errors import ConfigError

IGNORED = -100


class MaskedCaption(NamedTuple):
    """Captions to be guessed.

    Attributes:
        ids: [b n] with masked words.
        targets: [b n] true ids where words are to be guessed, −100 elsewhere.
    """

    ids: Tensor
    targets: Tensor


@dataclass(frozen=True)
class CaptionMasking:
    """Which words are masked.

    Attributes:
        share: of the words of a caption, [CLS] and [SEP] counted; [CLS] is never masked, [SEP] may be.
        most: masked words of one caption.
        masked, swapped: shares of them that become [MASK] or a random word; the rest stays.
        mask, pad: ids of [MASK] and [PAD].
    """

    share: float = 0.5
    most: int = 45
    masked: float = 0.8
    swapped: float = 0.1
    mask: int = 103
    pad: int = 0

    def __call__(
        self, ids: Int[Tensor, "b n"], vocabulary: int, generator: torch.Generator | None = None
    ) -> MaskedCaption:
        """Mask captions that begin with [CLS] and end with [SEP] and padding; at least one word of each."""
        real = ids != self.pad
        count = (real.sum(1) * self.share).round().clamp(1, self.most)
        order = torch.rand(ids.shape, generator=generator).to(ids.device)
        candidate = real.clone()
        candidate[:, 0] = False
        rank = order.masked_fill(~candidate, 2).argsort(1).argsort(1)
        chosen: Bool[Tensor, "b n"] = candidate & (rank < count[:, None])
        fate = torch.rand(ids.shape, generator=generator).to(ids.device)
        others = torch.randint(vocabulary, ids.shape, generator=generator).to(ids.device)
        hidden = torch.where(fate < self.masked, self.mask, ids)
        hidden = torch.where((fate >= self.masked) & (fate < self.masked + self.swapped), others, hidden)
        return MaskedCaption(torch.where(chosen, hidden, ids), ids.masked_fill(~chosen, IGNORED))


def word_loss(
    logits: Float[Tensor, "b n v"], targets: Int[Tensor, "b n"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Divergence of the words guessed at targets from the true ones; `smoothing` goes to all others."""
    at = targets != IGNORED
    guessed, true = logits[at].float().log_softmax(-1), targets[at]
    hit = guessed.gather(1, true[:, None]).squeeze(1)
    if smoothing == 0:
        return -hit.mean()
    each = smoothing / (logits.shape[-1] - 1)
    entropy = torch.tensor([1 - smoothing, smoothing], device=logits.device)
    entropy = (entropy * torch.tensor([1 - smoothing, each], device=logits.device).log()).sum()
    return (entropy - (1 - smoothing) * hit - each * (guessed.sum(1) - hit)).mean()


@dataclass(frozen=True)
class CaptionObjective:
    """Masked words plus λ times the mask's mean.

    Attributes:
        masking: of captions.
        sparsity: λ.
        smoothing: of the words' targets.
    """

    masking: CaptionMasking = CaptionMasking()
    sparsity: float = 0.5
    smoothing: float = 0.0

    def loss(
        self,
        model: SwinBERT,
        pixels: Float[Tensor, "b 3 t h w"],
        ids: Int[Tensor, "b n"],
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss on videos in [0, 1] and their captions, and its parts to log."""
        masked = self.masking(ids, model.config.text.vocabulary, generator)
        logits = model.read(model.normalise(pixels), masked.ids)
        words = word_loss(logits, masked.targets, self.smoothing)
        parts = {"words": words.detach()}
        if model.mask is None:
            return words, parts
        sparse = model.mask.loss()
        return words + self.sparsity * sparse, parts | {"sparsity": sparse.detach()}


def parameter_groups(
    model: SwinBERT, rate: float = 3e-4, video_factor: float = 0.05, decay: float = 0.2
) -> list[dict[str, Any]]:
    """Groups for AdamW: Video Swin learns slower; biases and norms do not decay."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        plain = parameter.ndim == 1 or name.endswith(".bias.table")
        groups.setdefault((name.startswith("video."), plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * (video_factor if video else 1.0),
            "weight_decay": 0.0 if plain else decay,
        }
        for (video, plain), parameters in groups.items()
    ]


def warm_then_linear(step: int, steps: int, warm: float = 0.1) -> float:
    """Factor of the learning rate: up in a straight line over a share of the steps, then down to 0.

    Raises:
        ConfigError: no steps.
    """
    if steps < 1:
        raise ConfigError(f"training takes at least one step, not {steps}")
    rising = steps * warm
    if step < rising:
        return step / rising
    return max(0.0, (steps - step) / max(steps - rising, 1.0))
