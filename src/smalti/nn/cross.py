"""A pre-norm block whose queries read another sequence: one norm for both, separate products, LayerScale.

```
x [b m d] ─┬─► norm1 ─► q ──┐
           │                ├─► attention (+ bias by position) ─► scale ─► + ─► norm2 ─► MLP ─► scale ─► +
other [b n d] ─► norm1 ─► k, v
```
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from smalti.nn.transformer import CrossAttention, DropPath, LayerScale, Mlp
from smalti.nn.windows import RelativeBias


class CrossBlock(nn.Module):
    """Cross-attention, then an MLP, both residual.

    Args:
        dim: channels.
        heads: of the attention.
        mlp_ratio: hidden channels of the MLP, as a factor.
        qkv_bias: of the products.
        eps: of both norms.
        layer_scale: start of both LayerScales; none when not given.
        drop_path: share of samples without a branch, in training.
        side: of the map that the sequence is, for a bias by relative position in self-attention; none when
            not given.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        side: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        scale = nn.Identity if layer_scale is None else lambda: LayerScale(dim, layer_scale)
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = CrossAttention(dim, heads, qkv_bias)
        self.bias = None if side is None else RelativeBias(side, heads)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def read(
        self, x: Float[Tensor, "b m d"], other: Float[Tensor, "b n d"], allowed: Tensor | None = None
    ) -> Float[Tensor, "b m d"]:
        """What attention adds; `allowed` [b|1 1 m|1 n] is True where it may go."""
        bias = allowed if self.bias is None else self.bias().to(x.dtype)
        return self.drop_path(self.ls1(self.attn(self.norm1(x), self.norm1(other), bias)))

    def feed(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        """The second half: every token by itself."""
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def forward(
        self, x: Float[Tensor, "b m d"], other: Float[Tensor, "b n d"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """Every token of `x` reads `other`, or `x` itself, and stays what it is beside."""
        return self.feed(x + self.read(x, x if other is None else other))
