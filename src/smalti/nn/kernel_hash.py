"""Kernel hashing: binary codes whose products say who is near, learned without labels (EcoFormer, 2022).

```
x [b h n d] ─► exp(−|x − anchor|² / 2s) − mean ─► projection ─► sign ─► codes [b h n bits] of ±1
       fit:  nearest +1, farthest −1 = S ─► bit by bit: min −yᵀ S y, S −= y yᵀ
```
S is never built: it is 2·`neighbours` entries a token, and the bits that were learned before.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.clustering import chunked


class Sign(torch.autograd.Function):
    """The sign, 0 of 0; its gradient passes where the number lies within (−1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sign."""
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient, cut off outside."""
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() < 1)


class Likeness:
    """The matrix S codes shall follow: `bits` at near pairs, −`bits` at far ones, less what bits explain.

    Args:
        x: features of length 1.
        count: near and far tokens of every token.
        bits: that codes will have.
    """

    def __init__(self, x: Float[Tensor, "b h n d"], count: int, bits: int) -> None:
        self.bits = bits
        near, far = [], []
        for rows in chunked(x.shape[2], x.shape[0] * x.shape[1] * x.shape[2]):
            products = x[:, :, rows] @ x.mT
            near.append(products.topk(count, -1).indices)
            far.append(products.topk(count, -1, largest=False).indices)
        self.near, self.far = torch.cat(near, 2), torch.cat(far, 2)
        self.learned: list[Tensor] = []

    def times(self, y: Float[Tensor, "b h n"]) -> Float[Tensor, "b h n"]:
        """S y."""

        def sums(index: Tensor) -> Tensor:
            return y.gather(-1, index.flatten(2)).unflatten(-1, index.shape[2:]).sum(-1)

        return self._less(self.bits * (sums(self.near) - sums(self.far)), y)

    def transposed_times(self, y: Float[Tensor, "b h n"]) -> Float[Tensor, "b h n"]:
        """Sᵀ y."""
        spread = y.repeat_interleave(self.near.shape[-1], -1)
        total = torch.zeros_like(y).scatter_add(-1, self.near.flatten(2), spread)
        return self._less(self.bits * total.scatter_add(-1, self.far.flatten(2), -spread), y)

    def _less(self, product: Tensor, y: Tensor) -> Tensor:
        for bit in self.learned:
            product = product - bit * (bit * y).sum(-1, keepdim=True)
        return product

    def loss(self, y: Float[Tensor, "b h n"]) -> Float[Tensor, ""]:
        """How badly a bit explains S, the mean over samples and heads."""
        return -(self.times(y) * y).sum(-1).mean() / (y.shape[-1] * self.bits)

    def gradient(self, y: Float[Tensor, "b h n"]) -> Float[Tensor, "b h n"]:
        """Of the loss."""
        scale = y.shape[0] * y.shape[1] * y.shape[2] * self.bits
        return -(self.times(y) + self.transposed_times(y)) / scale


class KernelHash(nn.Module):
    """A hash of every head, of kernels to anchors.

    Args:
        heads: of the features.
        dim: channels of a head.
        bits: of a code.
        anchors: support samples m.
        neighbours: near and far tokens of every token, at most half of all, that learning looks at.
        rate: of learning.
        momentum: of learning, Nesterov's.
        iterations: of learning, every bit.

    Raises:
        ConfigError: no bit or no anchor.
    """

    projection: Tensor
    mean: Tensor
    anchors: Tensor

    def __init__(
        self,
        heads: int,
        dim: int,
        bits: int = 16,
        anchors: int = 25,
        neighbours: int = 10,
        rate: float = 5e-4,
        momentum: float = 0.9,
        iterations: int = 100,
    ) -> None:
        super().__init__()
        if bits < 1 or anchors < 1:
            raise ConfigError(f"a hash needs bits and anchors, not {bits} and {anchors}")
        self.bits, self.neighbours, self.rate = bits, neighbours, rate
        self.momentum, self.iterations = momentum, iterations
        self.register_buffer("projection", torch.randn(heads, bits, anchors))
        self.register_buffer("mean", torch.zeros(1, heads, 1, anchors))
        start = torch.randn(1, heads, anchors, dim)
        self.register_buffer("anchors", start / start.norm(dim=-1, keepdim=True))

    def kernel(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n m"]:
        """exp(−|x − anchor|² / 2s), s being the mean of the squares for every sample and head."""
        x, anchors = x.float(), self.anchors.float()
        squares = x.square().sum(-1, keepdim=True) + anchors.square().sum(-1)[:, :, None]
        squares = (squares - 2 * x @ anchors.mT).clamp_min(0)
        return torch.exp(-squares / (2 * squares.mean((2, 3), keepdim=True)))

    def forward(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n k"]:
        """Codes of ±1, in the precision of the features."""
        found = (self.kernel(x) - self.mean.float()) @ self.projection.float().mT
        return Sign.apply(found).to(x.dtype)  # pyright: ignore[reportOptionalMemberAccess]

    @torch.no_grad()
    def fit(
        self, x: Float[Tensor, "b h n d"], anchors: Float[Tensor, "1 h m d"] | None = None
    ) -> Float[Tensor, "bits"]:
        """Learn the hash from features; gives the loss of every bit that was kept.

        Args:
            x: features of length 1.
            anchors: random tokens of the first sample when not given.
        """
        x = x.float()
        if anchors is None:
            length, wanted = x.shape[2], self.anchors.shape[2]
            chosen = torch.randperm(max(length, wanted), device=x.device)[:wanted] % length
            anchors = x[:1, :, chosen]
        self.anchors.copy_(anchors)
        features = self.kernel(x)
        self.mean.copy_(features.mean((0, 2), keepdim=True))
        features = features - self.mean.float()
        likeness = Likeness(x, max(min(self.neighbours, x.shape[2] // 2), 0), self.bits)
        losses = []
        for bit in range(self.bits):
            before = self.projection[:, bit].float()
            after = self._descend(features, likeness, before)
            rows = [torch.where(_products(features, row) > 0, 1.0, -1.0) for row in (before, after)]
            found = [likeness.loss(row) for row in rows]
            better = int(found[1] < found[0])
            self.projection[:, bit] = after if better else before
            likeness.learned.append(rows[better])
            losses.append(found[better])
        return torch.stack(losses)

    def _descend(
        self, features: Float[Tensor, "b h n m"], likeness: Likeness, row: Float[Tensor, "h m"]
    ) -> Float[Tensor, "h m"]:
        """Gradient descent of the relaxed loss, y = 2 σ(K a) − 1."""
        velocity = torch.zeros_like(row)
        for _ in range(self.iterations):
            y = 2 * _products(features, row).sigmoid() - 1
            slope = likeness.gradient(y) * (1 - y.square()) / 2
            gradient = torch.einsum("bhn,bhnm->hm", slope, features)
            velocity = self.momentum * velocity + gradient
            row = row - self.rate * (gradient + self.momentum * velocity)
        return row


def _products(features: Float[Tensor, "b h n m"], row: Float[Tensor, "h m"]) -> Float[Tensor, "b h n"]:
    return torch.einsum("bhnm,hm->bhn", features, row)


def coded_attention(
    codes: Float[Tensor, "b h n k"],
    values: Float[Tensor, "b h n d"],
    beta: int,
    bias: str = "self",
) -> Float[Tensor, "b h n d"]:
    """Means of values, weighted by codes' products plus `beta`, which no product falls below; linear in n.

    Args:
        codes: of ±1, of queries and keys alike.
        values: of the tokens.
        beta: more than the bits.
        bias: "sum" weighs exactly so; "self" adds β of the token's own value instead of all, as official.
    """
    tokens = codes.shape[2]
    gathered = codes.mT @ values
    biased = values if bias == "self" else values.sum(2, keepdim=True)
    weights = codes @ codes.sum(2).unsqueeze(-1) + tokens * beta
    return (codes @ gathered + beta * biased) / weights
