"""EcoFormer's attention on codes, the attentions it stands beside, and PVTv2's block and patches.

```
x ─┬─► to_qk ─► length 1 ─► hash ─► codes ─┐
   └─► to_v ───────────────────────────────┴─► linear attention ─► proj
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.kernel_hash import KernelHash, coded_attention
from smalti.nn.random_features import linear_attention, orthogonal_features, positive_features
from smalti.nn.transformer import Attention, DropPath

Kind = Literal["ecoformer", "softmax", "shared", "sra", "performer"]


@dataclass(frozen=True)
class Hashing:
    """Of EcoFormer's attention.

    Attributes:
        bits: of a code.
        anchors: of the kernels.
        neighbours: near and far tokens that the hash learns from.
        bias: "self" adds β of the token's own value, as official; "sum" of all values, as derived.
        shift: β is the next power of two instead of bits + 1.
        every: forwards in training until the hash is learned again; the first learns it, too.
        rate: of learning the hash.
        iterations: of learning a bit.
    """

    bits: int = 16
    anchors: int = 25
    neighbours: int = 10
    bias: Literal["self", "sum"] = "self"
    shift: bool = False
    every: int = 300
    rate: float = 5e-4
    iterations: int = 100

    @property
    def beta(self) -> int:
        """What makes every weight positive."""
        return 1 << self.bits.bit_length() if self.shift else self.bits + 1


class EcoFormerAttention(nn.Module):
    """Attention between learned codes; queries and keys are the same.

    Args:
        dim: channels.
        heads: that divide them.
        hashing: its options.
    """

    age: Tensor

    def __init__(self, dim: int, heads: int, hashing: Hashing) -> None:
        super().__init__()
        self.heads, self.hashing = heads, hashing
        self.to_qk, self.to_v, self.proj = (nn.Linear(dim, dim) for _ in range(3))
        self.hash = KernelHash(
            heads,
            dim // heads,
            hashing.bits,
            hashing.anchors,
            hashing.neighbours,
            hashing.rate,
            iterations=hashing.iterations,
        )
        self.register_buffer("age", torch.tensor(-1))  # forwards since the hash was learned; −1 for never

    def features(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n d"]:
        """What is hashed, of length 1."""
        return F.normalize(rearrange(self.to_qk(x), "b n (h d) -> b h n d", h=self.heads), dim=-1)

    def codes(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n k"]:
        """Codes of ±1."""
        return self.hash(self.features(x))

    @torch.no_grad()
    def fit_hash(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "k"]:
        """Learn the hash from tokens; the losses of its bits."""
        losses = self.hash.fit(self.features(x))
        self.age.zero_()
        return losses

    def set_retrain(self) -> None:
        """Learn the hash again at the next forward in training."""
        self.age.fill_(-1)

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Attend; in training, learn the hash when it is its time."""
        if self.training and torch.is_grad_enabled():
            if not 0 <= int(self.age) < self.hashing.every:
                self.fit_hash(x)
            self.age += 1
        values = rearrange(self.to_v(x), "b n (h d) -> b h n d", h=self.heads)
        out = coded_attention(self.codes(x), values, self.hashing.beta, self.hashing.bias)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class SoftmaxAttention(Attention):
    """Ordinary attention, which takes no notice of the map's size."""

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Every token asks all."""
        return super().forward(x)


class SharedAttention(nn.Module):
    """Attention whose queries are its keys; by softmax or by Performer's random features.

    Args:
        dim: channels.
        heads: that divide them.
        features: random ones of Performer's; 0 for softmax.
    """

    directions: Tensor

    def __init__(self, dim: int, heads: int, features: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.to_qk, self.to_v, self.proj = (nn.Linear(dim, dim) for _ in range(3))
        self.register_buffer("directions", orthogonal_features(features, dim // heads) if features else None)

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Every token asks all."""
        parts = (self.to_qk(x), self.to_v(x))
        asked, values = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        if self.directions is None:
            out = F.scaled_dot_product_attention(asked, asked, values)
        else:
            phi = positive_features(asked * asked.shape[-1] ** -0.25, self.directions)
            out = linear_attention(phi, phi, values)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class ReducedAttention(nn.Module):
    """PVT's spatial-reduction attention: keys and values are of a smaller map.

    Args:
        dim: channels.
        heads: that divide them.
        ratio: of the sides.
    """

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, ratio, ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(dim) if ratio > 1 else None

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Every token asks the smaller map; a map smaller than the ratio is continued with zeros."""
        source = x
        if self.sr is not None and self.norm is not None:
            maps = rearrange(x, "b (h w) c -> b c h w", h=size[0])
            ratio = self.sr.stride[0]
            after = (0, max(ratio - size[1], 0), 0, max(ratio - size[0], 0))
            source = self.norm(rearrange(self.sr(F.pad(maps, after)), "b c h w -> b (h w) c"))
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(source), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


def attention(kind: Kind, dim: int, heads: int, ratio: int, hashing: Hashing) -> nn.Module:
    """One of the attentions; each takes tokens and the size of their map."""
    if kind == "ecoformer":
        return EcoFormerAttention(dim, heads, hashing)
    if kind == "sra":
        return ReducedAttention(dim, heads, ratio)
    if kind == "softmax":
        return SoftmaxAttention(dim, heads)
    return SharedAttention(dim, heads, dim // heads if kind == "performer" else 0)


class ConvolvedMlp(nn.Module):
    """Two linear layers with a depthwise 3×3 convolution and GELU between (PVTv2)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Every token with its neighbours."""
        maps = rearrange(self.fc1(x), "b (h w) c -> b c h w", h=size[0])
        return self.fc2(F.gelu(rearrange(self.conv(maps), "b c h w -> b (h w) c")))


class PyramidBlock(nn.Module):
    """PVTv2's pre-norm block around one of the attentions."""

    def __init__(self, dim: int, attn: nn.Module, hidden: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.mlp = attn, ConvolvedMlp(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Tokens look at each other, then at their neighbours."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class OverlappingPatches(nn.Module):
    """A strided convolution whose patches overlap, and a norm (PVTv2)."""

    def __init__(self, source: int, dim: int, side: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(source, dim, side, stride, side // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Float[Tensor, "b k y x"]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens [b n c], and the size of their map."""
        maps = self.proj(maps)
        return self.norm(rearrange(maps, "b c h w -> b (h w) c")), (maps.shape[2], maps.shape[3])
