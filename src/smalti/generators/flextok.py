"""FlexTok's generator: a Llama that writes a picture's ordered codes, as many as are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.token_lm import TokenLM, drawer
from smalti.registry import replace
from smalti.tokens import Source, Tokens


@dataclass(frozen=True)
class FlexTokGeneratorConfig:
    """Attributes:
    dim, depth, heads: of the transformer.
    codes: of the tokenizer.
    length: tokens of a picture at most.
    classes: that can be asked for; 0 where text is the condition.
    text: channels of the text's features (T5's), which every block reads; 0 where a class is the condition.
    dropout: of embeddings and branches, in training.
    condition_dropout: share of samples without their condition, in training.
    """

    dim: int = 1536
    depth: int = 24
    heads: int = 24
    codes: int = 64_000
    length: int = 256
    classes: int = 1000
    text: int = 0
    dropout: float = 0.1
    condition_dropout: float = 0.1


PRESETS = {
    "class": FlexTokGeneratorConfig(),
    "text": FlexTokGeneratorConfig(classes=0, text=2048),
}


class FlexTokGenerator(nn.Module):
    """Codes of a class or a text, coarse first (Bachmann et al., 2025, arXiv 2502.13967).

    ```
    class ─► embedding, or a learned start ─► prefix ─► TokenLM ─► code 1, code 2, … any number of them
    text's features [b m c] ──── read by every block ──► ▲
    ```
    The official weights are not public; sizes between 49 million and 3 billion are reported.

    Raises:
        ConfigError: both classes and text, or neither.
    """

    def __init__(self, config: FlexTokGeneratorConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: FlexTokGeneratorConfig = replace(config or FlexTokGeneratorConfig(), changes)
        config = self.config
        if bool(config.classes) == bool(config.text):
            raise ConfigError(f"a condition is a class or a text, one of them: {config}")
        self.lm = TokenLM(
            config.codes, config.length, config.dim, config.depth, config.heads, 8 * config.dim // 3,
            dropout=config.dropout, context=config.text or None,
        )  # fmt: skip
        self.start = nn.Parameter(torch.randn(config.classes + 1, config.dim) * 0.02)
        self.no_text = nn.Parameter(torch.randn(config.text) * 0.02) if config.text else None

    def _given(self, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prefix and context of classes [b] or of a text's features [b m c]."""
        if condition.ndim != (1 if self.no_text is None else 3):
            wanted = "classes [b]" if self.no_text is None else "features of a text [b m c]"
            raise ConfigError(f"the condition must be {wanted}, not of shape {tuple(condition.shape)}")
        drop = torch.rand(len(condition), device=condition.device) < self.config.condition_dropout
        drop = drop & self.training
        if self.no_text is None:
            return self.start[torch.where(drop, self.config.classes, condition)][:, None], None
        context = torch.where(drop[:, None, None], self.no_text, condition)
        return self.start.expand(len(condition), 1, -1), context

    def forward(self, condition: Tensor, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b m k"]:
        """Logits of the codes, given those before: `ids` are all but the last.

        Raises:
            ConfigError: a condition of the other kind.
        """
        prefix, context = self._given(condition)
        return self.lm(prefix, ids, context)

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        count: int | None = None,
        *,
        guidance: float = 1.5,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        source: Source | None = None,
    ) -> Tokens:
        """The first codes of new pictures.

        Args:
            condition: classes [b], or a text's features [b m c].
            count: codes a picture; all when not given.
            guidance: away from no condition.
            temperature, top_k, top_p: of every draw.
            generator: of the draws.
            source: size to decode to.

        Raises:
            ConfigError: a condition of the other kind.
        """
        prefix, context = self._given(condition)
        null = self.start[-1].expand_as(prefix)
        if context is not None and self.no_text is not None and guidance != 1:
            context = torch.cat([context, self.no_text.expand_as(context)])
        draw = drawer(temperature, top_k, top_p, generator)
        ids = self.lm.sample(prefix, count or self.config.length, draw, null, guidance, context)
        return Tokens(ids=ids[..., None], source=source)
