"""The generator of TiTok and One-D-Piece: MaskGIT over the tokens of a picture, given its class.

```
all masked ─► transformer (class in front) ─► logits ─► draw, keep the surest ─► … T times ─► ids [b k]
```
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.bert_encoder import BertConfig, bert_config, rename_bert
from smalti.nn.strict_loading import load_strictly, numbered, told
from smalti.nn.word_networks import BertWords, UViT
from smalti.registry import replace
from smalti.tokens import Source, Tokens

Rise = Literal["constant", "linear", "power-cosine"]


@dataclass(frozen=True)
class TiTokGeneratorConfig:
    """Attributes:
    network: BERT, or a U-ViT whose first blocks are joined to its last.
    codes: of the tokenizer.
    length: tokens of a picture.
    classes: of pictures.
    dim, depth, heads, hidden: of the transformer.
    dropout: of BERT, in training.
    steps: in which a picture is drawn.
    temperature: of the Gumbel noise at the beginning; it falls to 0.
    guidance: away from what is drawn without a class.
    rise: of the guidance over the steps.
    power: of the power-cosine rise.
    size: pixels a side that the tokens stand for.
    """

    network: Literal["bert", "u-vit"] = "bert"
    codes: int = 4096
    length: int = 32
    classes: int = 1000
    dim: int = 768
    depth: int = 24
    heads: int = 16
    hidden: int = 3072
    dropout: float = 0.1
    steps: int = 8
    temperature: float = 9.5
    guidance: float = 4.5
    rise: Rise = "linear"
    power: float = 3.0
    size: int = 256


PRESETS = {
    "titok_l32": TiTokGeneratorConfig(),
    "titok_b64": TiTokGeneratorConfig(length=64, temperature=11.0, guidance=3.0),
    "titok_s128": TiTokGeneratorConfig(
        "u-vit", length=128, dim=1024, depth=20, hidden=4096, dropout=0.0, steps=64, temperature=2.8,
        guidance=6.9, rise="power-cosine",
    ),
    "One-D-Piece-L-256": TiTokGeneratorConfig(
        length=256, steps=16, temperature=3.0, guidance=5.5, rise="power-cosine"
    ),
}  # fmt: skip


class TiTokGenerator(nn.Module):
    """Tokens of pictures of a class, all places at once (MaskGIT: Chang et al., 2022).

    ```
    words: codes, then the mask (`codes`), then classes, then the class that says nothing
    [class, K words] ─► transformer ─► logits [b K codes]
    ```
    Official training (`loss`): arccos share of masked tokens, label smoothing 0.1, weight 0.1 on tokens that
    are not masked, no class for a tenth; AdamW 2e-4, betas 0.9 and 0.96, decay 0.03, 500k steps of 2048.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(self, config: TiTokGeneratorConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: TiTokGeneratorConfig = replace(config or TiTokGeneratorConfig(), changes)
        config = self.config
        self.model: nn.Module = _network(config)
        self.lm_head = nn.Linear(config.dim, config.codes)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)

    @property
    def mask(self) -> int:
        """The word that says that a token is not known."""
        return self.config.codes

    @property
    def null(self) -> int:
        """The class that says nothing."""
        return self.config.classes

    def forward(self, ids: Int[Tensor, "b k"], classes: Int[Tensor, "b"]) -> Float[Tensor, "b k v"]:
        """Logits of codes in place of all words.

        Raises:
            FormatError: an id or a class that does not exist.
        """
        _refuse_outside(classes, self.null, "class")
        _refuse_outside(ids, self.mask, "id")
        words = torch.cat([classes[:, None] + self.config.codes + 1, ids], 1)
        return self.lm_head(self.model(words)[:, 1:])

    def hide(
        self, ids: Int[Tensor, "b k"], generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """Words with an arccos share masked, at least one of every sample; and which."""
        count, length = ids.shape
        share = torch.acos(torch.rand(count, 1, generator=generator)) / (math.pi / 2)
        order = torch.rand(count, length, generator=generator).argsort(1)
        hidden = (order < (length * share).round().clamp(min=1)).to(ids.device)
        return torch.where(hidden, self.mask, ids), hidden

    def loss(
        self,
        ids: Int[Tensor, "b k"],
        classes: Int[Tensor, "b"],
        generator: torch.Generator | None = None,
        drop: float = 0.1,
    ) -> Float[Tensor, ""]:
        """What training minimises: smoothed cross-entropy, masked tokens counting ten times the others."""
        words, hidden = self.hide(ids, generator)
        free = (torch.rand(len(ids), generator=generator) < drop).to(ids.device)
        logits = self(words, torch.where(free, self.null, classes))
        each = F.cross_entropy(logits.mT, ids, label_smoothing=0.1, reduction="none")
        weight = torch.where(hidden, 1.0, 0.1)
        return (each * weight).sum() / weight.sum()

    def lead(self, step: int, steps: int, guidance: float) -> float:
        """How far the logits go beyond those of the class, away from those of none."""
        done = step / steps
        if self.config.rise == "power-cosine":
            return (guidance - 1) * (1 - math.cos(math.pi * done**self.config.power)) / 2
        return guidance if self.config.rise == "constant" else guidance * done

    @torch.no_grad()
    def sample(
        self,
        count: int,
        condition: Int[Tensor, "b"] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """Tokens of `count` pictures that the tokenizer decodes.

        Args:
            count: of pictures.
            condition: class of each; none when not given.
            steps: instead of the configuration's.
            guidance: instead of the configuration's.
            generator: of all draws; without temperature nothing is drawn.

        Raises:
            ConfigError: not one class a picture, or no step.
            FormatError: a class that does not exist.
        """
        config = self.config
        steps, guidance = steps or config.steps, config.guidance if guidance is None else guidance
        classes = torch.full((count,), self.null) if condition is None else condition
        if len(classes) != count or steps < 1:
            raise ConfigError(
                f"{len(classes)} classes for {count} pictures in {steps} steps: give one a picture"
            )
        classes = classes.to(self.lm_head.weight.device)
        ids = torch.full((count, config.length), self.mask, device=classes.device)
        for step, remask in enumerate(masked_after(config.length, steps)):
            heat = config.temperature * (1 - (step + 1) / steps)
            lead = self.lead(step, steps, guidance)
            ids = self._step(ids, classes, lead, heat, remask, generator)
        return Tokens(ids=ids[..., None], source=Source(config.size, config.size))

    def _step(
        self,
        ids: Int[Tensor, "b k"],
        classes: Int[Tensor, "b"],
        lead: float,
        heat: float,
        remask: int,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "b k"]:
        """Draw what is masked and mask the least confident again."""
        logits = self(ids, classes).float()
        if lead:
            logits = logits + lead * (logits - self(ids, torch.full_like(classes, self.null)).float())
        unknown = ids == self.mask
        drawn = _noisy(logits, heat, generator).argmax(-1)
        confidence = logits.gather(2, drawn[..., None])[..., 0].masked_fill(~unknown, torch.inf)
        ids = torch.where(unknown, drawn, ids)
        if not remask:
            return ids
        worst = _noisy(confidence, heat, generator).topk(remask, 1, largest=False).indices
        return ids.scatter(1, worst, self.mask)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int = 16, **options: Any) -> TiTokGenerator:
        """The generator of an official checkpoint; its sizes are read from it.

        Args:
            state: names and tensors, of BERT or of a U-ViT.
            heads: which a checkpoint does not tell.
            options: of sampling, as fields of the configuration.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        if "pos_embed" in state:
            words, dim = told(state, "embeddings.weight").shape
            codes = len(told(state, "lm_head.weight"))
            config = TiTokGeneratorConfig(
                "u-vit", codes, state["pos_embed"].shape[1] - 1, words - codes - 2, dim,
                2 * len(numbered(state, r"in_blocks\.(\d+)\.")), heads,
                len(told(state, "mid_block.mlp.fc1.weight")), 0.0,
            )  # fmt: skip
            ours = {n if n.startswith("lm_head.") else f"model.{n}": t for n, t in state.items()}
        else:
            heads_free = {re.sub(r"^model\.", "", name): tensor for name, tensor in state.items()}
            ours = rename_bert(heads_free)
            bert, codes = bert_config(ours, heads), len(told(ours, "lm_head.weight"))
            config = TiTokGeneratorConfig(
                "bert", codes, bert.positions - 1, bert.vocabulary - codes - 2, bert.dim, bert.depth, heads,
                bert.hidden,
            )  # fmt: skip
            ours = {n if n.startswith("lm_head.") else f"model.{n}": t for n, t in ours.items()}
        model = cls(replace(config, options))
        load_strictly(model, ours)
        return model


def _network(config: TiTokGeneratorConfig) -> nn.Module:
    words, length = config.codes + config.classes + 2, config.length + 1
    if config.network == "u-vit":
        return UViT(words, length, config.dim, config.depth, config.heads, config.hidden)
    sizes = (words, config.dim, config.depth, config.heads, config.hidden, length)
    return BertWords(BertConfig(*sizes, dropout=config.dropout))


def masked_after(length: int, steps: int) -> list[int]:
    """Tokens still masked after every step: floor(K · arccos(r) · 2/π), ever fewer above 1, and at last 0."""
    counts = [length]
    for step in range(1, steps):
        share = math.acos(step / steps) / (math.pi / 2)
        counts.append(max(1, min(counts[-1] - 1, math.floor(length * share))))
    return [*counts[1:], 0]


def _noisy(scores: Tensor, heat: float, generator: torch.Generator | None) -> Tensor:
    if not heat:
        return scores
    uniform = torch.rand(scores.shape, generator=generator, device=scores.device).clamp(min=1e-20)
    return scores - heat * (-uniform.log()).clamp(min=1e-20).log()


def _refuse_outside(ids: Tensor, most: int, what: str) -> None:
    if ids.numel() and not ids.is_meta and (int(ids.min()) < 0 or int(ids.max()) > most):
        raise FormatError(f"{what} {int(ids.min())} to {int(ids.max())} is outside 0 to {most}")
