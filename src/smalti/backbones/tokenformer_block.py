"""TokenFormer's block, its configurations, and those that were published."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.rotary_half import rotate_half
from smalti.nn.token_parameters import Pattention, Theta
from smalti.nn.transformer import DropPath


@dataclass(frozen=True)
class Pictures:
    """The vision form.

    Attributes:
        side: pixels of height and width that the table of positions was made for.
        patch: pixels a side.
        classes: of the head.
    """

    side: int = 224
    patch: int = 16
    classes: int = 1000


@dataclass(frozen=True)
class Words:
    """The language form: causal, with rotary positions.

    Attributes:
        vocabulary: ids, or codes of a tokenizer.
        rotary: share of every head's channels that turn.
        base: of the wavelengths.
        tied: the head is the embedding.
    """

    vocabulary: int = 50304
    rotary: float = 0.25
    base: float = 10000.0
    tied: bool = True


@dataclass(frozen=True)
class TokenFormerConfig:
    """Attributes:
    dim: channels; growing never changes them.
    depth: blocks.
    heads: that divide the channels.
    tokens: parameter tokens of each query, key and value; of the attention's output; of the feed-forward.
    norm: of scores, "l2_norm_gelu", "gelu_l2_norm" or "softmax".
    tau: factor of normalised scores for each of `tokens`; √n when not given.
    frozen: first rows of each of `tokens` that are not learned.
    pictures: the vision form; or
    words: the language form.
    eps: of all norms.
    dropout: of weights of parameter tokens.
    drop_path: of the last block, falling linearly to 0 at the first.
    checkpointing: compute blocks again for their gradients, to save memory.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    tokens: tuple[int, int, int] = (768, 768, 3072)
    norm: Theta = "l2_norm_gelu"
    tau: tuple[float, float, float] | None = None
    frozen: tuple[int, int, int] = (0, 0, 0)
    pictures: Pictures | None = field(default_factory=Pictures)
    words: Words | None = None
    eps: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if (self.pictures is None) == (self.words is None):
            raise ConfigError("choose one of pictures and words, and leave the other out")
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")


class TokenBlock(nn.Module):
    """A pre-norm block of five Pattentions; its norms have no parameters.

    ```
    x ─┬─► norm ─► query, key, value ─► attention ─► proj ─┬─►┬─► norm ─► mlp ─┬─► x
       └───────────────────────────────────────────────────┘  └────────────────┘
    ```
    """

    def __init__(self, config: TokenFormerConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads, self.words, self.eps = config.heads, config.words, config.eps
        taus = config.tau or (None, None, None)

        def layer(part: int) -> Pattention:
            return Pattention(
                config.dim,
                config.dim,
                config.tokens[part],
                config.norm,
                taus[part],
                value_std=2 / (config.depth * math.sqrt(config.dim)),
                frozen=config.frozen[part],
                dropout=config.dropout,
            )

        self.query, self.key, self.value = layer(0), layer(0), layer(0)
        self.proj, self.mlp = layer(1), layer(2)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Float[Tensor, "b n d"], allowed: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """The first branch; `allowed` [b 1 n n] is True where attention may go, a causal mask included."""
        x = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        q, k, v = (
            rearrange(layer(x), "b n (h c) -> b h n c", h=self.heads)
            for layer in (self.query, self.key, self.value)
        )
        if self.words is not None:
            q, k = (rotate_half(part, self.words.rotary, self.words.base) for part in (q, k))
        causal = self.words is not None and allowed is None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)
        return self.proj(rearrange(mixed, "b h n c -> b n (h c)"))

    def forward(self, x: Float[Tensor, "b n d"], allowed: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Tokens look at each other, then every token at the feed-forward's parameters."""
        x = x + self.drop_path(self.attend(x, allowed))
        return x + self.drop_path(self.mlp(F.layer_norm(x, x.shape[-1:], eps=self.eps)))


def _language(dim: int, depth: int, heads: int, tokens: int) -> TokenFormerConfig:
    counts = (tokens, tokens, 4 * tokens)
    return TokenFormerConfig(dim, depth, heads, counts, pictures=None, words=Words())


PRESETS = {
    "vit-b-16": TokenFormerConfig(),
    "vit-b-16-slim": TokenFormerConfig(tokens=(576, 576, 2304)),
    "vit-l-16": TokenFormerConfig(1024, 24, 16, (1024, 1024, 4096)),
    "vit-l-16-slim": TokenFormerConfig(1024, 24, 16, (768, 768, 3072)),
    "150M": _language(768, 12, 12, 768),
    "450M": _language(1024, 24, 16, 1024),
    "900M": _language(1280, 32, 16, 1280),
    "1.5B": _language(1536, 40, 16, 1536),
    "124M": _language(768, 12, 12, 576),
    "354M": _language(768, 12, 12, 2140),
    "757M": _language(768, 12, 12, 4850),
    "1.4B": _language(768, 12, 12, 9216),
}
