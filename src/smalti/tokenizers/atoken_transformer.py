"""AToken's transformer over packed sets: places learned and turned, attention within a set.

```
features [n d] ─► linear + table [16 16] resized to the set's extent ─► blocks, queries and keys turned by
(t, x, y, z) ─► norm ─► [n d] ─► one learned query asks every set ─► norm, MLP ─► [sets d]
```
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.packed_sets import PackedSets, packed_attention, place_angles
from smalti.nn.rotary_pairs import turn_pairs


@dataclass(frozen=True)
class Manner:
    """What differs between AToken's networks.

    Attributes:
        bias: of all linear layers.
        rms: norms by root mean square; layer norms otherwise.
        normed: queries and keys have a norm of their own, head by head.
    """

    bias: bool
    rms: bool
    normed: bool

    def norm(self, dim: int) -> nn.Module:
        """A norm of so many channels."""
        return nn.RMSNorm(dim, 1e-6) if self.rms else nn.LayerNorm(dim, 1e-6)


ENCODER = Manner(bias=True, rms=False, normed=False)
DECODER = Manner(bias=False, rms=True, normed=True)
VOXELS = Manner(bias=False, rms=True, normed=False)


class HeadNorm(nn.Module):
    """Length 1, times the square root of the channels and a learned factor for every channel and head."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, channels))

    def forward(self, x: Float[Tensor, "h n c"]) -> Float[Tensor, "h n c"]:
        """In float32."""
        scaled = F.normalize(x.float(), dim=-1) * self.gamma[:, None].float() * x.shape[-1] ** 0.5
        return scaled.to(x.dtype)


class SetAttention(nn.Module):
    """Attention within every set; places turn queries and keys."""

    def __init__(self, dim: int, heads: int, manner: Manner) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"{heads} heads do not divide {dim} channels")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, manner.bias)
        self.proj = nn.Linear(dim, dim, manner.bias)
        norm = partial(HeadNorm, heads, dim // heads) if manner.normed else nn.Identity
        self.q_norm, self.k_norm = norm(), norm()

    def forward(
        self, x: Float[Tensor, "n d"], counts: list[int], angles: Tensor | None = None
    ) -> Float[Tensor, "n d"]:
        """Sets behind each other; `angles` [n c/2] of their places, where there are any."""
        q, k, v = rearrange(self.qkv(x), "n (three h c) -> three h n c", three=3, h=self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = (turn_pairs(part[None], angles)[0] for part in (q, k))
        return self.proj(rearrange(packed_attention(q, k, v, counts, counts), "h n c -> n (h c)"))


def feed(dim: int, hidden: int, bias: bool) -> nn.Sequential:
    """The MLP of all networks."""
    return nn.Sequential(nn.Linear(dim, hidden, bias), nn.GELU("tanh"), nn.Linear(hidden, dim, bias))


class SetBlock(nn.Module):
    """Attention, then an MLP, both behind norms and residual."""

    def __init__(self, dim: int, heads: int, hidden: int, manner: Manner) -> None:
        super().__init__()
        self.norm1, self.norm2 = manner.norm(dim), manner.norm(dim)
        self.attn = SetAttention(dim, heads, manner)
        self.mlp = feed(dim, hidden, manner.bias)

    def forward(
        self, x: Float[Tensor, "n d"], counts: list[int], angles: Tensor | None = None
    ) -> Float[Tensor, "n d"]:
        """Sets behind each other."""
        x = x + self.attn(self.norm1(x), counts, angles)
        return x + self.mlp(self.norm2(x))


class SetTransformer(nn.Module):
    """The encoder's and the decoder's trunk.

    Args:
        channels: that come in.
        dim, depth, heads, hidden: of the blocks.
        manner: of encoder or decoder.
        side: of the learned table of rows and columns.
    """

    def __init__(
        self, channels: int, dim: int, depth: int, heads: int, hidden: int, manner: Manner, side: int = 16
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, dim, manner.bias)
        self.table = nn.Parameter(torch.randn(side * side, dim) * 0.02)
        self.blocks = nn.ModuleList(SetBlock(dim, heads, hidden, manner) for _ in range(depth))
        self.norm = manner.norm(dim)
        self.head_channels, self.side = dim // heads, side
        place_angles(torch.zeros(1, 4), self.head_channels)  # refuses what cannot be turned

    def resized(self, rows: int, columns: int) -> Float[Tensor, "rows columns d"]:
        """The learned table at the size of a set."""
        table = rearrange(self.table.float(), "(h w) d -> 1 d h w", h=self.side)
        table = F.interpolate(table, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        return table[0].permute(1, 2, 0).to(self.table.dtype)

    def learned(self, batch: PackedSets) -> Float[Tensor, "n d"]:
        """Of every token's row and column in its set."""
        tables: dict[tuple[int, int], Tensor] = {}
        found = []
        for _, places in batch.sets():
            x, y = places[:, 1], places[:, 2]
            extent = (int(x.max()) + 1, int(y.max()) + 1)
            if extent not in tables:
                tables[extent] = self.resized(*extent)
            found.append(tables[extent][x, y])
        return torch.cat(found)

    def forward(self, batch: PackedSets) -> Float[Tensor, "n d"]:
        """What every token knows of its set."""
        x = self.enter(batch.features.to(self.table.dtype)) + self.learned(batch)
        counts, angles = batch.counts, place_angles(batch.places[:, 1:], self.head_channels)
        for block in self.blocks:
            x = block(x, counts, angles)
        return self.norm(x)


class SetPooling(nn.Module):
    """One learned query asks all tokens of a set, without places, as SigLIP's head does."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.randn(dim) * 0.02)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.mlp = feed(dim, hidden, bias=True)

    def forward(self, x: Float[Tensor, "n d"], counts: list[int]) -> Float[Tensor, "sets d"]:
        """One vector a set."""
        q = self.q(self.probe).expand(len(counts), -1)
        q = rearrange(q, "s (h c) -> h s c", h=self.heads)
        k, v = rearrange(self.kv(x), "n (two h c) -> two h n c", two=2, h=self.heads)
        read = packed_attention(q, k, v, [1] * len(counts), counts)
        found = self.proj(rearrange(read, "h s c -> s (h c)"))
        return found + self.mlp(self.norm(found))
