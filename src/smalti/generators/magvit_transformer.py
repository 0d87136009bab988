"""MAGVIT's masked transformer: one model for ten tasks (Yu et al., 2022, arXiv 2212.05199).

```
[task][class] z₁ … z_N, some of them MASK or condition tokens ─► BERT ─► logits of codes at z₁ … z_N
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor, cat, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.generators.magvit_commit import TASKS, Masked
from smalti.nn.bert_encoder import BertConfig, BertEmbedding, BertEncoder, MaskedWordHead

SPECIAL = 16  # words kept for MASK, the tasks and what may come
TASK_WORDS = {
    "class_generation": -3,
    "class_frame_prediction": -4,
    "frame_prediction": -4,
    "frame_interpolation": -5,
    **{task: -6 for task in TASKS if task.startswith(("outpaint", "inpaint"))},
}
INPAINTING = -7


@dataclass(frozen=True)
class MagvitTransformerConfig:
    """Attributes:
    codes: of the tokenizer.
    grid: tokens in time, rows and columns.
    classes: of the data; there is one word more, for none.
    bert: dim, depth, heads, hidden and dropout; its vocabulary and positions are set from the rest.
    smoothing: of the labels.
    own_inpainting_word: inpainting has a word of its own; in the official code it uses that of outpainting.
    """

    codes: int = 1024
    grid: tuple[int, int, int] = (4, 16, 16)
    classes: int = 101
    bert: BertConfig = field(default_factory=lambda: BertConfig(kinds=1))
    smoothing: float = 1e-4
    own_inpainting_word: bool = False


PRESETS = {
    "B": MagvitTransformerConfig(),
    "L": MagvitTransformerConfig(bert=BertConfig(dim=1024, depth=24, heads=16, hidden=4096, kinds=1)),
    "H": MagvitTransformerConfig(bert=BertConfig(dim=1280, depth=32, heads=16, hidden=5120, kinds=1)),
}


class MagvitTransformer(nn.Module):
    """Logits of all codes for tokens some of which are masked.

    Deviation: GELU is exact, where the official one is the tanh approximation.

    Raises:
        ConfigError: tokens of another grid, or an unknown task.
    """

    def __init__(self, config: MagvitTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MagvitTransformerConfig()
        vocabulary = config.codes + config.classes + 1 + SPECIAL
        bert = replace(config.bert, vocabulary=vocabulary, positions=2 + math.prod(config.grid))
        self.words = BertEmbedding(bert)
        self.encoder = BertEncoder(bert)
        self.head = MaskedWordHead(bert, tied=self.words.word)

    def task_word(self, task: str) -> int:
        """The word that tells a task, counted from the end of the vocabulary."""
        if task not in TASK_WORDS:
            raise ConfigError(f"no task {task!r}: choose one of {', '.join(TASK_WORDS)}")
        if task.startswith("inpaint") and self.config.own_inpainting_word:
            return INPAINTING
        return TASK_WORDS[task]

    def forward(
        self,
        tokens: Int[Tensor, "b t h w"],
        task: str = "class_generation",
        labels: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b t h w k"]:
        """Logits; without labels for no class."""
        config = self.config
        if tuple(tokens.shape[1:]) != config.grid:
            raise ConfigError(f"tokens are {tuple(tokens.shape[1:])}, but the model's grid is {config.grid}")
        label = tokens.new_full((len(tokens),), config.classes) if labels is None else labels
        told = tokens.new_full((len(tokens), 1), self.task_word(task))
        ids = cat([told, (label + config.codes)[:, None], tokens.flatten(1)], 1)
        ids = ids.where(ids >= 0, ids + self.words.word.num_embeddings)
        logits = self.head(self.encoder(self.words(ids)))[:, 2:, : config.codes]
        return logits.unflatten(1, config.grid)

    def loss(
        self, masked: Masked, task: str = "class_generation", labels: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the targets, weighted as `mask_tokens` was told."""
        logits = self(masked.tokens, task, labels).flatten(0, -2).float()
        each = F.cross_entropy(
            logits, masked.targets.flatten(), reduction="none", label_smoothing=self.config.smoothing
        )
        weights = masked.weights.flatten()
        return (each * weights).sum() / weights.sum().clamp(min=1)
