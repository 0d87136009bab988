"""Ways to mix tokens, each alone at one width: [b n d] → [b n d], or fewer.

```
x [1 n d] ─► fused attention │ performer │ kernel hash │ pooling │ windows │ lookup │ state space │ …
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.backbones.ecoformer_blocks import EcoFormerAttention, Hashing
from smalti.backbones.lookupvit_block import LookupBlock
from smalti.backbones.ponet_mixing import Places, PoNetMixer
from smalti.backbones.t2t_vit import TokenPerformer
from smalti.evaluation.profiling.contender import Call, Contender, grid_of, values
from smalti.nn.single_query import SingleQueryAttention
from smalti.nn.state_space import StateSpaceLayer
from smalti.nn.strip_attention import StripSelfAttention
from smalti.nn.token_parameters import Pattention
from smalti.nn.transformer import Attention
from smalti.nn.windows import WindowAttention, join, partition

WINDOW = 8  # tokens a side
SEGMENT = 4  # tokens a side that are pooled
COMPRESSED = 25  # tokens that look the others up
STRIP = 4  # ratio of the sides of the map that strip attention asks
SAMPLE = 256  # tokens that a hash is learned from
ITERATIONS = 10  # of learning each of its bits; how good they are costs nothing


class Called(nn.Module):
    """A mixer that wants more than tokens, called its own way."""

    def __init__(self, mixer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.mixer, self.call = mixer, call

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Mixed tokens."""
        return self.call(self.mixer, x)


class Lookup(nn.Module):
    """A block of LookupViT and the compressed tokens that it works on."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.block = LookupBlock(width, heads, heads)
        self.compressed = nn.Parameter(torch.randn(1, COMPRESSED, width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens that were told what the compressed ones found."""
        return self.block(self.compressed.expand(len(x), -1, -1), x)[1]


def _on_grid(mixer: nn.Module, x: Tensor) -> Tensor:
    return mixer(x, grid_of(x.shape[1]))


def _pooled(mixer: nn.Module, x: Tensor) -> Tensor:
    return mixer(x, Places(grid=grid_of(x.shape[1]), window=SEGMENT))


def _windowed(mixer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(mixer, WindowAttention)
    size = grid_of(x.shape[1])
    windows, padded = partition(x.unflatten(1, size), WINDOW)
    mixed = mixer.within(windows.flatten(1, -2)).view_as(windows)
    return join(mixed, padded, size).flatten(1, 2)


def _hashed(width: int, heads: int) -> nn.Module:
    attention = EcoFormerAttention(width, heads, Hashing(iterations=ITERATIONS))
    attention.fit_hash(values(SAMPLE, width))
    return Called(attention, _on_grid)


@dataclass(frozen=True)
class Mixer:
    """Attributes:
    build: from width, heads and tokens.
    note: what is in it, and what is not.
    by_length: it is built anew for every number of tokens.
    """

    build: Callable[[int, int, int], nn.Module]
    note: str
    by_length: bool = False


PLAIN = "fused attention"
MIXERS = {
    PLAIN: Mixer(lambda width, heads, n: Attention(width, heads), "softmax of all pairs, by torch's kernel"),
    "performer": Mixer(
        lambda width, heads, n: TokenPerformer(width, width),
        "T2T-ViT's: one head, half as many random features as channels; norms and an MLP of ratio 1 included",
    ),
    "kernel hash": Mixer(
        lambda width, heads, n: _hashed(width, heads), "EcoFormer's: codes of 16 bits, learned before"
    ),
    "granular pooling": Mixer(
        lambda width, heads, n: Called(PoNetMixer(width, heads), _pooled),
        "PoNet's: all, segments of 4 × 4, neighbours of 3 × 3",
    ),
    "windows": Mixer(
        lambda width, heads, n: Called(WindowAttention(width, heads, (WINDOW, WINDOW)), _windowed),
        "Swin's: 8 × 8 tokens, not shifted",
    ),
    "lookup": Mixer(
        lambda width, heads, n: Lookup(width, heads),
        "LookupViT's block: 25 compressed tokens; norms and both MLPs included",
    ),
    "state space": Mixer(
        lambda width, heads, n: StateSpaceLayer(width, length=n),
        "S4's, made for the length: its kernel is computed anew at every call; one direction",
        by_length=True,
    ),
    "strip attention": Mixer(
        lambda width, heads, n: Called(StripSelfAttention(width, heads, STRIP), _on_grid),
        "S2AFormer's: keys of a map of a quarter of the sides, one channel a head in queries and keys",
    ),
    "token parameters": Mixer(
        lambda width, heads, n: Pattention(width, width, 2 * width),
        "TokenFormer's: every token by itself asks as many numbers as attention has; tokens are not mixed",
    ),
    "single query": Mixer(
        lambda width, heads, n: SingleQueryAttention(width, heads),
        "CrossViT's: only the first token asks, and is all that comes out",
    ),
}


def mixers(width: int, heads: int, seed: int = 0) -> list[Contender]:
    """Every mixer at one width, fused attention first."""

    def build(mixer: Mixer, tokens: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return mixer.build(width, heads, tokens).eval().requires_grad_(False)

    def contender(name: str, mixer: Mixer) -> Contender:
        first = build(mixer, SAMPLE)

        def prepare(tokens: int) -> Call:
            module, x = build(mixer, tokens) if mixer.by_length else first, values(tokens, width)
            return lambda: module(x)

        return Contender(name, sum(p.numel() for p in first.parameters()), prepare, mixer.note)

    return [contender(name, mixer) for name, mixer in MIXERS.items()]
