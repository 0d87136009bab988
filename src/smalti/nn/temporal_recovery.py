"""From the few frames that were kept back to all: by learned queries, or between neighbours in time.

```
kept [b m n c], index [b m] ─┬─► TokenRecoveringAttention ─┐
                             └─► interpolate_frames ───────┴─► [b f n c]
```
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.nn.clustering import take
from smalti.nn.transformer import CrossAttention


class TokenRecoveringAttention(nn.Module):
    """One learned query a frame asks the kept frames, joint by joint (HoT, Li et al., 2024).

    ```
    queries [1 f c] ──┬────────────────────────────┐
                      └─► cross-attention to kept ─►┴─► [b f n c]
    ```
    No norm and no MLP.

    Args:
        frames: that come out.
        dim: channels.
        heads: that divide them.
        start: of the queries: "zero", as official, when all frames come out equal until they are trained, or
            "sine", a position in time.
    """

    def __init__(
        self, frames: int, dim: int, heads: int = 8, start: Literal["zero", "sine"] = "zero"
    ) -> None:
        super().__init__()
        first = torch.zeros(frames, dim) if start == "zero" else sinusoid(frames, dim)
        self.queries = nn.Parameter(first[None])
        self.attention = CrossAttention(dim, heads)

    def forward(self, x: Float[Tensor, "b m n c"]) -> Float[Tensor, "b f n c"]:
        """All frames again."""
        batch, _, joints, _ = x.shape
        kept = rearrange(x, "b m n c -> (b n) m c")
        queries = self.queries.expand(batch * joints, -1, -1)
        return rearrange(queries + self.attention(queries, kept), "(b n) f c -> b f n c", n=joints)


def sinusoid(length: int, dim: int) -> Float[Tensor, "n d"]:
    """Sines and cosines of positions (Vaswani et al., 2017)."""
    half = (dim + 1) // 2
    rate = torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
    angle = torch.arange(length)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :dim]


def interpolate_frames(
    x: Float[Tensor, "b m n c"],
    index: Int[Tensor, "b m"],
    frames: int,
    mode: Literal["linear", "nearest"] = "linear",
) -> Float[Tensor, "b f n c"]:
    """Every frame from the kept ones before and after it; beyond the ends the outermost kept one.

    Args:
        x: kept frames.
        index: where they stood, rising.
        frames: that come out.
        mode: a mixture by distance in time, or the nearer one, the earlier of two.
    """
    count = index.shape[1]
    time = torch.arange(frames, device=x.device).expand(len(x), -1)
    right = torch.searchsorted(index, time.contiguous()).clamp(max=count - 1)
    left = (right - 1).clamp(min=0)
    before, after = index.gather(1, left), index.gather(1, right)
    share = ((time - before) / (after - before).clamp(min=1)).clamp(0, 1)
    if mode == "nearest":
        share = (share > 0.5).to(share.dtype)
    share = share.to(x.dtype)[..., None]
    flat = x.flatten(2)
    return torch.lerp(take(flat, left), take(flat, right), share).unflatten(2, x.shape[2:])
