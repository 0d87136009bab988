"""BERT (Devlin et al., 2019): words to embeddings, blocks with norms behind branches, the head of words.

```
ids [b n] ─► word + position + kind ─► norm ─► x [b n d]
x ─┬─► attention (+ bias, + remembered keys) ─┬─► norm1 ─┬─► MLP ─┬─► norm2 ─► x
   └──────────────────────────────────────────┘          └────────┘
x ─► dense ─► GELU ─► norm ─► products with words ─► logits [b n v]
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.attention import received
from smalti.nn.transformer import Attention, Mlp


@dataclass(frozen=True)
class BertConfig:
    """Attributes:
    vocabulary: words.
    dim: channels.
    depth: blocks.
    heads: of the attention.
    hidden: channels of the MLPs.
    positions: words of the longest text.
    kinds: of sentences.
    dropout: of embeddings, attention and branches.
    eps: of all norms.
    """

    vocabulary: int = 30522
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    kinds: int = 2
    dropout: float = 0.1
    eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")


class Memory(NamedTuple):
    """Keys and values [b heads n c] that a block has seen."""

    keys: Tensor
    values: Tensor


class BertEmbedding(nn.Module):
    """Words with their position and kind of sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocabulary, config.dim)
        self.position = nn.Embedding(config.positions, config.dim)
        self.kind = nn.Embedding(config.kinds, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.word, self.position, self.kind):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "b n"], start: int = 0) -> Float[Tensor, "b n d"]:
        """Embeddings of words of the first kind, the first of which stands at `start`.

        Raises:
            ConfigError: more words than positions.
            FormatError: ids outside the vocabulary.
        """
        end, limit = start + ids.shape[1], self.position.num_embeddings
        if end > limit:
            raise ConfigError(f"a text of {end} words is longer than {limit} positions: cut it")
        if not (ids.is_meta or torch.compiler.is_compiling()) and ids.numel():
            low, high, size = int(ids.min()), int(ids.max()), self.word.num_embeddings
            if low < 0 or high >= size:
                raise FormatError(f"ids lie in [{low}, {high}], outside [0, {size - 1}]")
        return self.dropout(self.norm(self.word(ids) + self.position.weight[start:end] + self.kind.weight[0]))


class BertBlock(nn.Module):
    """Attention and an MLP, each added to what went in and normed."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attn = Attention(config.dim, config.heads)
        self.norm1 = nn.LayerNorm(config.dim, config.eps)
        self.mlp = Mlp(config.dim, config.hidden)
        self.norm2 = nn.LayerNorm(config.dim, config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def step(
        self, x: Float[Tensor, "b n d"], bias: Tensor | None = None, memory: Memory | None = None
    ) -> tuple[Float[Tensor, "b n d"], Memory]:
        """What comes out, and keys and values of all tokens that were seen, the remembered ones first."""
        q, k, v = self.attn.split(x)
        if memory is not None:
            k, v = torch.cat([memory.keys, k], 2), torch.cat([memory.values, v], 2)
        if bias is not None and bias.is_floating_point():
            bias = bias.to(q.dtype)
        dropped = self.dropout.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped)
        x = self.norm1(x + self.dropout(self.attn.proj(rearrange(out, "b h n c -> b n (h c)"))))
        return self.norm2(x + self.dropout(self.mlp(x))), Memory(k, v)


class BertEncoder(nn.Module):
    """The blocks.

    A bias [b|1 1|h n|1 m] is added to the logits of attention, or is True where attention may go.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BertBlock(config) for _ in range(config.depth))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Through all blocks."""
        return self.remember(x, bias)[0]

    def remember(
        self, x: Float[Tensor, "b n d"], bias: Tensor | None = None, memory: list[Memory] | None = None
    ) -> tuple[Float[Tensor, "b n d"], list[Memory]]:
        """Through all blocks, each beside what it remembers; and what they remember then."""
        grown = []
        for number, block in enumerate(self.blocks):
            x, seen = block.step(x, bias, None if memory is None else memory[number])  # pyright: ignore[reportCallIssue]
            grown.append(seen)
        return x, grown

    @torch.no_grad()
    def attention_received(
        self, x: Float[Tensor, "b n d"], bias: Tensor | None = None
    ) -> Float[Tensor, "b n"]:
        """Attention that falls on every token: the mean over heads, summed over queries and blocks."""
        added = bias
        if bias is not None and bias.dtype == torch.bool:
            added = torch.zeros_like(bias, dtype=torch.float32).masked_fill(~bias, -torch.inf)
        if added is not None:
            added = added.expand(len(x), -1, -1, -1)
        total = x.new_zeros(x.shape[:2], dtype=torch.float32)
        for block in self.blocks:
            q, k, _ = block.attn.split(x)  # pyright: ignore[reportCallIssue]
            total = total + received(q, k, q.shape[-1] ** -0.5, added, "all") * q.shape[2]
            x, _ = block.step(x, bias)  # pyright: ignore[reportCallIssue]
        return total


class MaskedWordHead(nn.Module):
    """Logits of words.

    Args:
        config: of the encoder.
        tied: the embedding whose table the last product shares; a table of its own when not given.
    """

    def __init__(self, config: BertConfig, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self.decoder = nn.Linear(config.dim, config.vocabulary)
        for layer in (self.dense, self.decoder):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if tied is not None:
            self.decoder.weight = tied.weight

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch v"]:
        """Logits."""
        return self.decoder(self.norm(F.gelu(self.dense(x))))


OFFICIAL_NAMES = (
    (r"^(words|embeddings)\.word_embeddings\.", "words.word."),
    (r"^(words|embeddings)\.position_embeddings\.", "words.position."),
    (r"^(words|embeddings)\.token_type_embeddings\.", "words.kind."),
    (r"^(words|embeddings)\.LayerNorm\.", "words.norm."),
    (r"^encoder\.layer\.", "encoder.blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.output\.LayerNorm\.", ".norm2."),
    (r"^predictions\.transform\.dense\.", "masked_words.dense."),
    (r"^predictions\.transform\.LayerNorm\.", "masked_words.norm."),
    (r"^predictions\.decoder\.", "masked_words.decoder."),
    (r"^predictions\.bias$", "masked_words.decoder.bias"),
)


def rename_bert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names → `words`, `encoder`, `masked_words`; three products of a block become one.

    Args:
        state: names that begin with `embeddings.`, `encoder.` or `predictions.`; others stay.

    Raises:
        ConfigError: a block without one of its products.
    """
    renamed, products = {}, {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):
            continue
        for pattern, ours in OFFICIAL_NAMES:
            name = re.sub(pattern, ours, name)
        if found := re.fullmatch(r"(.*)\.attention\.self\.(query|key|value)\.(weight|bias)", name):
            products.setdefault(f"{found[1]}.attn.qkv.{found[3]}", {})[found[2]] = tensor
        else:
            renamed[name] = tensor
    for name, parts in products.items():
        if len(parts) != 3:
            raise ConfigError(f"{name} lacks one of query, key and value: this checkpoint is not whole")
        renamed[name] = torch.cat([parts[part] for part in ("query", "key", "value")])
    return renamed


def bert_config(state: Mapping[str, Tensor], heads: int | None = None) -> BertConfig:
    """The configuration that weights under our names tell.

    Args:
        state: names with `words` and `encoder`.
        heads: which they do not tell; of 64 channels each when not given.

    Raises:
        ConfigError: no BERT.
    """
    try:
        vocabulary, dim = state["words.word.weight"].shape
        return BertConfig(
            vocabulary=vocabulary,
            dim=dim,
            depth=sum(bool(re.fullmatch(r"encoder\.blocks\.\d+\.norm1\.weight", name)) for name in state),
            heads=max(dim // 64, 1) if heads is None else heads,
            hidden=len(state["encoder.blocks.0.mlp.fc1.weight"]),
            positions=len(state["words.position.weight"]),
            kinds=len(state["words.kind.weight"]),
        )
    except KeyError as error:
        raise ConfigError(f"this checkpoint holds no BERT: no {error}") from error
