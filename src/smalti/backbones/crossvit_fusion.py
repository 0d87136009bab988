"""CrossViT's exchange of class tokens between branches of tokens, for any branches with a class token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.nn.single_query import SingleQueryAttention
from smalti.nn.transformer import DropPath

EPS = 1e-6


class ClassReader(nn.Module):
    """The first token, and what it reads in the sequence; nothing else comes out."""

    def __init__(
        self, dim: int, heads: int, qkv_bias: bool, scale: float | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = SingleQueryAttention(dim, heads, qkv_bias, scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
        """Read; the token itself is carried on as it came, before the norm."""
        return x[:, :1] + self.drop_path(self.attn(self.norm1(x)))


class CrossAttentionFusion(nn.Module):
    """Every branch's class token reads the next branch's patches and comes back (Chen et al., 2021).

    ```
    class token i [b 1 d_i] ─► norm, GELU, linear ─► [b 1 d_j] ─┬─► reader ─► norm, GELU, linear ─► [b 1 d_i]
    patches j = i + 1 [b n_j d_j] ──────────────────────────────┘
    ```
    All branches read what came in; the old class token is replaced, patches stay as they are.

    Args:
        dims: channels of every branch.
        heads: of every branch's attention; a branch is read with its own.
        layers: readers behind each other, of which all but the first see the class token alone; 0 is one
            reader in the official layout without a number.
        qkv_bias: of the readers.
        scale: of their logits; one over the square root of a head's channels when not given.
        drop_path: share of samples that do not read, in training.
    """

    def __init__(
        self,
        dims: Sequence[int],
        heads: Sequence[int],
        layers: int = 0,
        qkv_bias: bool = True,
        scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.projs, self.fusion, self.revert_projs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, dim in enumerate(dims):
            following = (number + 1) % len(dims)
            there, asking = dims[following], (dims[following], heads[following], qkv_bias, scale, drop_path)
            readers = [ClassReader(*asking) for _ in range(max(layers, 1))]
            self.projs.append(_change(dim, there))
            self.fusion.append(nn.Sequential(*readers) if layers else readers[0])
            self.revert_projs.append(_change(there, dim))

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Sequences [b 1+n_i d_i], class token first → the same with class tokens exchanged."""
        out = []
        for number, (own, leave, read, back) in enumerate(
            zip(branches, self.projs, self.fusion, self.revert_projs, strict=True)
        ):
            other = branches[(number + 1) % len(branches)]
            seen = read(torch.cat([leave(own[:, :1]), other[:, 1:]], 1))
            out.append(torch.cat([back(seen), own[:, 1:]], 1))
        return out


def _change(source: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(source, EPS), nn.GELU(), nn.Linear(source, dim))
