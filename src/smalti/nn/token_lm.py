"""A language model over codes: a prefix of vectors, then ids, each predicted from all before it.

```
prefix [b p d] ─┐
ids [b n] ─► embedding ─► + learned places ─► causal blocks ─► norm ─► logits [b p+n k]
                                               ▲ keys and values of the past in a `State`
```
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.causal_conv import State
from smalti.nn.gated_mlp import GatedMlp
from smalti.nn.transformer import CrossAttention

Norm = Callable[[int], nn.Module]


def rms_norm(dim: int) -> nn.Module:
    """Root-mean-square norm as Llama has it."""
    return nn.RMSNorm(dim, 1e-5)


class CausalAttention(nn.Module):
    """Attention to the token itself and those before it.

    Args:
        dim: channels.
        heads: that divide them.
        bias: of all products.
        dropout: of attention, in training.
    """

    def __init__(self, dim: int, heads: int, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"{heads} heads do not divide {dim} channels")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "b n d"], state: State | None = None) -> Float[Tensor, "b n d"]:
        """A whole sequence, or with a state that holds a past, the next token."""
        q, k, v = rearrange(self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        past = None if state is None else state.get(self)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if state is not None:
            state[self] = (k, v)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, is_causal=past is None, dropout_p=dropout)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))


class CausalBlock(nn.Module):
    """Causal attention, then what is read from a context if there is one, then an MLP; all residual.

    Args:
        dim: channels.
        heads: of the attention.
        mlp: the second half.
        norm: makes a norm of so many channels.
        bias: of attention.
        dropout: of every branch, in training.
        attention_dropout: of attention, in training.
        context: channels of what is read; none when not given.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp: nn.Module,
        norm: Norm = rms_norm,
        bias: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        context: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attn = CausalAttention(dim, heads, bias, attention_dropout)
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)
        self.context_norm = norm(dim) if context else None
        self.read = CrossAttention(dim, heads, bias, context) if context else None

    def forward(
        self, x: Float[Tensor, "b n d"], context: Tensor | None = None, state: State | None = None
    ) -> Float[Tensor, "b n d"]:
        """Every token with those before it, and the context [b m c]."""
        x = x + self.dropout(self.attn(self.norm1(x), state))
        if self.read is not None and self.context_norm is not None and context is not None:
            x = x + self.dropout(self.read(self.context_norm(x), context))
        return x + self.dropout(self.mlp(self.norm2(x)))


class TokenLM(nn.Module):
    """A decoder-only transformer over codes with learned places (Llama without rotary positions).

    Args:
        codes: that can be predicted.
        words: that can be read, where more are known than are predicted.
        length: places: of the prefix and all ids but the last.
        dim, depth, heads: of the transformer.
        hidden: channels of the gated MLP.
        dropout: of embeddings and branches, in training.
        context: channels of a sequence that every block reads; none when not given.
    """

    def __init__(
        self,
        codes: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        words: int | None = None,
        dropout: float = 0.1,
        context: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words or codes, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, heads, GatedMlp(dim, hidden), dropout=dropout, context=context)
            for _ in range(depth)
        )
        self.norm = rms_norm(dim)
        self.output = nn.Linear(dim, codes, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
                if isinstance(layer, nn.Linear) and layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        prefix: Float[Tensor, "b p d"],
        ids: Int[Tensor, "b n"],
        context: Tensor | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "b m k"]:
        """Logits of what follows every vector of the prefix and every id; the next part's with a state.

        Raises:
            ConfigError: more vectors than there are places.
        """
        x = torch.cat([prefix, self.tokens(ids)], 1)
        first = 0 if state is None else state.get(self, 0)
        if first + x.shape[1] > len(self.places):
            raise ConfigError(f"{first + x.shape[1]} places are asked, but {len(self.places)} are known")
        if state is not None:
            state[self] = first + x.shape[1]
        x = self.dropout(x) + self.places[first : first + x.shape[1]]
        for block in self.blocks:
            x = block(x, context, state)
        return self.output(self.norm(x))

    @torch.no_grad()
    def sample(
        self,
        prefix: Float[Tensor, "b p d"],
        count: int,
        draw: Callable[[Tensor], Tensor],
        null: Float[Tensor, "b p d"] | None = None,
        guidance: float = 1.0,
        context: Tensor | None = None,
    ) -> Int[Tensor, "b count"]:
        """Ids drawn one after the other.

        Args:
            prefix: what is given.
            count: ids wanted.
            draw: takes logits [b k] and gives ids [b].
            null: the prefix that says nothing, for guidance above 1.
            guidance: how far the logits go from those of `null` beyond those of `prefix`.
            context: what every block reads [b m c], with the null's context behind it under guidance.

        Raises:
            ConfigError: guidance without a null prefix.
        """
        guided = guidance != 1.0
        if guided and null is None:
            raise ConfigError("guidance needs a prefix that says nothing, to lead away from")
        given = torch.cat([prefix, null]) if guided and null is not None else prefix
        state: State = {}
        logits = self(given, given.new_zeros(len(given), 0, dtype=torch.long), context, state)[:, -1]
        ids: list[Tensor] = []
        while True:
            if guided:
                told, free = logits.chunk(2)
                logits = free + guidance * (told - free)
            ids.append(draw(logits))
            if len(ids) == count:
                return torch.stack(ids, 1)
            last = ids[-1].repeat(2 if guided else 1)[:, None]
            logits = self(given[:, :0], last, context, state)[:, -1]


def drawer(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Callable[[Float[Tensor, "b k"]], Int[Tensor, "b"]]:
    """A function that draws one id from every row of logits.

    Args:
        temperature: 0 takes the likeliest.
        top_k: only so many likeliest ids; 0 for all.
        top_p: only the likeliest ids that together have this probability.
        generator: of the draws.
    """

    def draw(logits: Float[Tensor, "b k"]) -> Int[Tensor, "b"]:
        if temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / temperature
        if 0 < top_k < logits.shape[-1]:
            least = logits.topk(top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if top_p < 1:
            ordered, places = logits.sort(descending=True)
            share = ordered.softmax(-1)
            beyond = share.cumsum(-1) - share > top_p
            logits = logits.masked_fill(beyond.gather(1, places.argsort(1)), -torch.inf)
        return logits.softmax(-1).multinomial(1, generator=generator)[:, 0]

    return draw
