"""The prior that gives LARP's tokens their order: it predicts every code from the vectors before it.

```
v_1 … v_(n−1) [b n−1 c] ─► linear + places ─► causal blocks ─► norm ─► linear ─► length 1 ─· codebook
                                                                                                 │
round 2: some v replaced by codes drawn from round 1's softmax ◄──────────── logits [b n−1 k] ◄──┘
```
It fits any sequence of vectors from a codebook; only training uses it (Wang et al., 2024, arXiv 2410.21264).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.token_lm import CausalBlock
from smalti.nn.transformer import Mlp
from smalti.registry import replace


@dataclass(frozen=True)
class LARPPriorConfig:
    """Attributes:
    channels: of a vector.
    length: vectors at most.
    dim, depth, heads: of the transformer.
    dropout: of embeddings, branches and attention, in training.
    temperature: that logits are divided by.
    """

    channels: int = 16
    length: int = 1024
    dim: int = 384
    depth: int = 12
    heads: int = 6
    dropout: float = 0.1
    temperature: float = 1.0


PRESETS = {
    "gptc-S": LARPPriorConfig(),
    "gptc-XXS": LARPPriorConfig(dim=256, depth=6, heads=4),
    "gptc-XS": LARPPriorConfig(depth=6),
    "gptc-M": LARPPriorConfig(dim=512, heads=8),
    "gptc-B": LARPPriorConfig(dim=768, heads=12),
    "gptc-L": LARPPriorConfig(dim=1024, depth=24, heads=16),
}


def layer_norm(dim: int) -> nn.Module:
    """The norm of this transformer."""
    return nn.LayerNorm(dim, 1e-5)


class LARPPrior(nn.Module):
    """A GPT over vectors that answers with a vector, compared with every code.

    Gradients of the loss reach the vectors, so the encoder, but not the codebook that classifies. Differs
    from the official code: attention drops nothing in evaluation.
    """

    def __init__(self, config: LARPPriorConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: LARPPriorConfig = replace(config or LARPPriorConfig(), changes)
        config = self.config
        dim, drop = config.dim, config.dropout
        self.enter = nn.Linear(config.channels, dim)
        self.places = nn.Parameter(torch.randn(config.length, dim) * 0.02)
        self.dropout = nn.Dropout(drop)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, config.heads, Mlp(dim, 4 * dim), layer_norm, True, drop, drop)
            for _ in range(config.depth)
        )
        self.norm = layer_norm(dim)
        self.head = nn.Linear(dim, config.channels)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def predict(self, vectors: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The first vector, then what is expected after each but the last; all of length 1.

        Raises:
            ConfigError: more vectors than places.
        """
        seen = vectors[:, :-1].to(self.places.dtype)
        if seen.shape[1] > len(self.places):
            raise ConfigError(f"{vectors.shape[1]} vectors, but the prior has {len(self.places)} places")
        x = self.dropout(self.enter(seen) + self.places[: seen.shape[1]])
        for block in self.blocks:
            x = block(x)
        return F.normalize(torch.cat([seen[:, :1], self.head(self.norm(x))], 1), dim=-1)

    def logits(
        self, vectors: Float[Tensor, "b n c"], codebook: Float[Tensor, "k c"]
    ) -> Float[Tensor, "b m k"]:
        """Of the codes of all vectors but the first."""
        predicted = self.predict(vectors)[:, 1:].float()
        return predicted @ codebook.detach().float().T / self.config.temperature

    def forward(
        self,
        vectors: Float[Tensor, "b n c"],
        ids: Int[Tensor, "b n"],
        codebook: Float[Tensor, "k c"],
        share: float = 0.5,
        rounds: int = 2,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the codes, mean over rounds.

        Args:
            vectors: of the codes, with a gradient for the encoder.
            ids: the codes.
            codebook: every code's vector.
            share: of vectors that are replaced after the first round by codes drawn from its softmax.
            rounds: of prediction; 1 is teacher forcing alone.
        """
        replaced = torch.rand(*ids[:, 1:].shape, 1, device=ids.device) < share
        fed, losses = vectors, []
        for _ in range(rounds):
            logits = self.logits(fed, codebook)
            losses.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
            drawn = logits.detach().softmax(-1).flatten(0, 1).multinomial(1).view(len(ids), -1)
            other = F.embedding(drawn, codebook.detach()).to(vectors.dtype)
            fed = torch.cat([vectors[:, :1], torch.where(replaced, other, vectors[:, 1:])], 1)
        return torch.stack(losses).mean()

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int | None = None) -> LARPPrior:
        """The prior of an official checkpoint of the tokenizer, or of the prior alone.

        Args:
            state: names and tensors, with `prior_model.` in front or without.
            heads: which a checkpoint does not tell; heads of 64 channels when not given.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        front = "prior_model."
        inside = {name.removeprefix(front): t for name, t in state.items() if name.startswith(front)}
        inside = inside or dict(state)
        dim, channels = told(inside, "input_proj.weight").shape
        length = told(inside, "pos_emb").shape[1]
        depth = len(numbered(inside, r"blocks\.(\d+)\."))
        model = cls(LARPPriorConfig(channels, length, dim, depth, heads or max(dim // 64, 1)))
        kept = renamed(inside, RULES)
        kept["places"] = kept["places"][0]
        for block in range(depth):
            for kind in ("weight", "bias"):
                parts = [kept.pop(f"blocks.{block}.attn.{part}.{kind}", None) for part in PRODUCTS]
                if None not in parts:
                    kept[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([p for p in parts if p is not None])
        load_strictly(model, kept)
        return model


PRODUCTS = ("query", "key", "value")
RULES = (
    ("^input_proj", "enter"),
    ("^pos_emb", "places"),
    ("^ln_f", "norm"),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)


def replaced_share(step: int, steps: int, most: float = 0.5, peak: float = 0.3) -> float:
    """How many vectors to replace at a step of training: rises in a line to `most` at `peak` of all steps."""
    return min(most * step / (steps * peak), most)
