"""Networks that look at all words of a sequence at once: BERT, and a transformer with long skips.

```
ids [b n] ─► word + place ─► blocks ─► features [b n d]
U-ViT:  x ─► block ─┬─► block ─┬─► block ─► join ─► block ─► join ─► block
                    │          └──────────────┘               │
                    └─────────────────────────────────────────┘
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.bert_encoder import BertConfig, BertEmbedding, BertEncoder
from smalti.nn.transformer import Block, Mlp


class BertWords(nn.Module):
    """Words with places through BERT's blocks."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.words = BertEmbedding(config)
        self.encoder = BertEncoder(config)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Features of words."""
        return self.encoder(self.words(ids))


class PlainBlock(Block):
    """A block whose queries, keys and values have no bias.

    Args:
        dim: channels.
        heads: of the attention.
        hidden: channels of the MLP.
        joined: it first joins what an earlier block gave.
    """

    def __init__(self, dim: int, heads: int, hidden: int, joined: bool = False) -> None:
        super().__init__(dim, heads, qkv_bias=False, eps=1e-5)
        self.mlp = Mlp(dim, hidden)
        if joined:
            self.skip_linear = nn.Linear(2 * dim, dim)

    def join(self, x: Float[Tensor, "b n d"], earlier: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Both through the block."""
        return self(self.skip_linear(torch.cat([x, earlier], -1)))


class UViT(nn.Module):
    """A transformer with long skips over words (U-ViT: Bao et al., 2023, arXiv 2209.12152).

    Args:
        words: that are known.
        length: of the longest sequence.
        dim, heads, hidden: of the blocks.
        depth: blocks beside the one in the middle; half of them before it.

    Raises:
        ConfigError: an odd depth.
    """

    def __init__(self, words: int, length: int, dim: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        if depth % 2:
            raise ConfigError(f"a U-ViT joins blocks in pairs: {depth} blocks are odd")
        half = range(depth // 2)
        self.embeddings = nn.Embedding(words, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, length, dim))
        self.in_blocks = nn.ModuleList(PlainBlock(dim, heads, hidden) for _ in half)
        self.mid_block = PlainBlock(dim, heads, hidden)
        self.out_blocks = nn.ModuleList(PlainBlock(dim, heads, hidden, joined=True) for _ in half)
        self.norm = nn.LayerNorm(dim)
        for table in (self.embeddings.weight, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Features of words."""
        x = self.embeddings(ids) + self.pos_embed[:, : ids.shape[1]]
        earlier = []
        for block in self.in_blocks:
            x = block(x)
            earlier.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block.join(x, earlier.pop())  # pyright: ignore[reportCallIssue]
        return self.norm(x)
