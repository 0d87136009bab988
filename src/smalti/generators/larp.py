"""LARP's generator: a Llama with learned places that writes a clip's codes one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.token_lm import TokenLM, drawer
from smalti.registry import replace
from smalti.tokens import Source, Tokens


@dataclass(frozen=True)
class LARPGeneratorConfig:
    """Attributes:
    dim, depth, heads: of the transformer.
    multiple: that hidden channels, 8/3 of `dim`, are rounded up to.
    codes: of the tokenizer's codebook.
    length: tokens of a clip.
    classes: that can be asked for; 0 continues a clip whose tokens are given.
    dropout: of embeddings and branches, in training.
    class_dropout: share of samples without their class, in training.
    """

    dim: int = 1280
    depth: int = 30
    heads: int = 20
    multiple: int = 256
    codes: int = 8192
    length: int = 1024
    classes: int = 101
    dropout: float = 0.1
    class_dropout: float = 0.1


PRESETS = {
    "llama-abs-LP": LARPGeneratorConfig(),
    "llama-abs-S": LARPGeneratorConfig(384, 12, 6),
    "llama-abs-B": LARPGeneratorConfig(768, 12, 12),
    "llama-abs-L": LARPGeneratorConfig(1024, 24, 16),
    "llama-abs-XL": LARPGeneratorConfig(1280, 36, 20),
    "frame-prediction": LARPGeneratorConfig(classes=0),
}


class LARPGenerator(nn.Module):
    """Codes of a class, or of what follows a clip (Wang et al., 2024, arXiv 2410.21264).

    ```
    class ─► embedding ─────────────────────────┐
    or codes of the first frames, repeated to a ├─► prefix, then the clip's codes ─► TokenLM ─► next code
    clip, and a separator ─► embedding ─────────┘
    ```
    Sampling by default as official: temperature 1, all codes, guidance 1.25 for classes.
    """

    def __init__(self, config: LARPGeneratorConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: LARPGeneratorConfig = replace(config or LARPGeneratorConfig(), changes)
        config = self.config
        hidden = -(-(8 * config.dim // 3) // config.multiple) * config.multiple
        self.given = 1 if config.classes else config.length + 1
        self.lm = TokenLM(
            config.codes,
            config.length + self.given - 1,
            config.dim,
            config.depth,
            config.heads,
            hidden,
            words=config.codes + (config.classes == 0),
            dropout=config.dropout,
        )
        self.classes = nn.Embedding(config.classes + 1, config.dim) if config.classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)

    def prefix(self, condition: Tensor) -> Float[Tensor, "b p d"]:
        """What a condition becomes: classes [b], or codes [b n] of the clip to continue.

        Raises:
            ConfigError: a condition of the other kind.
        """
        if condition.ndim != (1 if self.classes is not None else 2):
            wanted = "classes [b]" if self.classes is not None else "codes [b n] of the clip to continue"
            raise ConfigError(f"the condition must be {wanted}, not of shape {tuple(condition.shape)}")
        if self.classes is None:
            separator = condition.new_full((len(condition), 1), self.config.codes)
            return self.lm.tokens(torch.cat([condition, separator], 1))
        if self.training and self.config.class_dropout:
            dropped = torch.rand(len(condition), device=condition.device) < self.config.class_dropout
            condition = torch.where(dropped, self.config.classes, condition)
        return self.classes(condition)[:, None]

    def forward(self, condition: Tensor, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b m k"]:
        """Logits of a clip's codes, given those before: `ids` are all but the last."""
        return self.lm(self.prefix(condition), ids)[:, self.given - 1 :]

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        *,
        guidance: float = 1.25,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        source: Source | None = None,
    ) -> Tokens:
        """The codes of new clips.

        Args:
            condition: classes [b], or codes [b n] of the clips to continue.
            guidance: away from no class; continuing knows none.
            temperature, top_k, top_p: of every draw.
            generator: of the draws.
            source: size and frames to decode to.

        Raises:
            ConfigError: a condition of the other kind.
        """
        prefix, null = self.prefix(condition), None
        if self.classes is None:
            guidance = 1.0
        else:
            null = self.classes.weight[-1].expand_as(prefix)
        draw = drawer(temperature, top_k, top_p, generator)
        ids = self.lm.sample(prefix, self.config.length, draw, null, guidance)
        return Tokens(ids=ids[..., None], source=source)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, multiple: int = 256
    ) -> LARPGenerator:
        """The generator of an official checkpoint; its sizes are read from it.

        Args:
            state: names and tensors.
            heads: which a checkpoint does not tell; heads of 64 channels when not given.
            multiple: that its hidden channels were rounded up to.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        codes, dim = told(state, "output.weight").shape
        table = state.get("cls_embedding.embedding_table.weight")
        places = told(state, "abs_pe").shape[1]
        model = cls(
            dim=dim,
            depth=len(numbered(state, r"layers\.(\d+)\.")),
            heads=heads or max(dim // 64, 1),
            multiple=multiple,
            codes=codes,
            length=places // 2 if table is None else places,
            classes=0 if table is None else len(table) - 1,
        )
        kept = renamed(state, RULES)
        kept["lm.places"] = kept["lm.places"][0]
        load_strictly(model, kept)
        return model


RULES = (
    (r"^cls_embedding\.embedding_table", "classes"),
    ("^tok_embeddings", "lm.tokens"),
    ("^abs_pe", "lm.places"),
    ("^(norm|output)", r"lm.\1"),
    (r"^layers\.", "lm.blocks."),
    (r"\.attention\.wqkv", ".attn.qkv"),
    (r"\.attention\.wo", ".attn.proj"),
    (r"\.attention_norm", ".norm1"),
    (r"\.ffn_norm", ".norm2"),
    (r"\.feed_forward\.w1", ".mlp.gate"),
    (r"\.feed_forward\.w3", ".mlp.value"),
    (r"\.feed_forward\.w2", ".mlp.out"),
)
