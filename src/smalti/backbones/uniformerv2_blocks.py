"""UniFormerV2's parts: blocks that mix tokens over time, and the reader of many layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.few_queries import FewQueryAttention
from smalti.nn.transformer import Block, DropPath, Mlp, QuickGELU

EPS = 1e-5


class LocalMHRA(nn.Module):
    """Local relation: every place looks at itself one slice before and after.

    ```
    [b d t h w] ─► batch norm ─► d/reduction channels ─► depthwise over 3 slices ─► d channels, at first zeros
    ```
    """

    def __init__(self, dim: int, reduction: float = 1.5) -> None:
        super().__init__()
        inner = int(dim // reduction)
        self.norm = nn.BatchNorm3d(dim)
        self.down = nn.Conv3d(dim, inner, 1)
        self.time = nn.Conv3d(inner, inner, (3, 1, 1), padding=(1, 0, 0), groups=inner)
        self.up = nn.Conv3d(inner, dim, 1)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, volume: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b d t h w"]:
        """What is added to the volume."""
        return self.up(self.time(self.down(self.norm(volume))))


class LocalUniBlock(nn.Module):
    """CLIP's block on every frame, with local relations over time before and after its attention.

    ```
    [b t n d] ─► + local 1 (patches) ─► + attention (a frame's tokens) ─► + local 2 (patches) ─► + MLP
    ```

    Args:
        dim: channels.
        heads: that divide them.
        local: 0 for CLIP's block alone, 1 for the first local relation, 2 for both.
        reduction: of the channels in local relations.
        drop_path: share of frames, or of clips for local relations, without a branch in training.
    """

    def __init__(
        self, dim: int, heads: int, local: int = 0, reduction: float = 1.5, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.local1 = LocalMHRA(dim, reduction) if local > 0 else None
        self.local2 = LocalMHRA(dim, reduction) if local > 1 else None
        self.image = Block(dim, heads, eps=EPS, activation=QuickGELU, drop_path=drop_path)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        """Tokens of all frames, class tokens first."""
        shape = x.shape[:2]
        x = self._mixed(x, self.local1)
        x = self.image.attend(x.flatten(0, 1)).unflatten(0, shape)
        x = self._mixed(x, self.local2)
        return self.image.feed(x.flatten(0, 1)).unflatten(0, shape)

    def _mixed(self, x: Float[Tensor, "b t n d"], local: LocalMHRA | None) -> Float[Tensor, "b t n d"]:
        if local is None:
            return x
        volume = rearrange(x[:, :, 1:], "b t n d -> b d t n 1")
        patches = volume + self.drop_path(local(volume))
        return torch.cat([x[:, :, :1], rearrange(patches, "b d t n 1 -> b t n d")], 2)


class GlobalUniBlock(nn.Module):
    """Global relation: one query reads the tokens of all frames.

    ```
    tokens [b t 1+h·w d] ─► + depthwise 3×3×3 on patches ─► norm ─┐
    query [b 1 d] ─► norm ─► cross-attention ◄────────────────────┘ ─► + ─► + MLP(norm) ─► query
    ```
    At the start it leaves the query as it is.

    Args:
        dim: channels.
        heads: that divide them.
        mlp_ratio: hidden channels of the MLP, as a factor.
        dropout: of the MLP's hidden channels.
        drop_path: share of clips without a branch, in training.
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.5, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.position = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm_query = nn.LayerNorm(dim, EPS)
        self.norm_tokens = nn.LayerNorm(dim, EPS)
        self.attn = FewQueryAttention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim, EPS)
        self.mlp = Mlp(dim, round(mlp_ratio * dim), lambda: nn.Sequential(QuickGELU(), nn.Dropout(dropout)))
        self.drop_path = DropPath(drop_path)
        bound = (6 / (4 * dim)) ** 0.5  # Xavier's, of one product for queries, keys and values
        for layer in (self.attn.q, self.attn.kv):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        nn.init.zeros_(self.position.get_parameter("bias"))
        for layer in (self.attn.proj, self.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Float[Tensor, "b 1 d"], tokens: Float[Tensor, "b t n d"], grid: tuple[int, int]
    ) -> Float[Tensor, "b 1 d"]:
        """The query, richer.

        Args:
            query: what was read so far.
            tokens: of one layer, every frame's class token first.
            grid: rows and columns of a frame's patches.
        """
        patches = rearrange(tokens[:, :, 1:], "b t (h w) d -> b d t h w", h=grid[0], w=grid[1])
        patches = rearrange(patches + self.position(patches), "b d t h w -> b t (h w) d")
        read = self.norm_tokens(torch.cat([tokens[:, :, :1], patches], 2).flatten(1, 2))
        query = query + self.drop_path(self.attn(self.norm_query(query), read))
        return query + self.drop_path(self.mlp(self.norm_mlp(query)))


class VideoTokenReader(nn.Module):
    """Tokens of several layers → one token: a running query, and the mean of the last class tokens.

    ```
    learned query ─► global block ─► global block ─► … ─► q ───────────────┐
                       ▲ layer 0      ▲ layer 1                            ├─► (1-w)·q + w·mean ─► [b d]
    class tokens of the last layer ─► mean over frames ─── w = sigmoid(balance), a channel ─┘
    ```

    Args:
        dim: channels.
        heads: that divide them.
        layers: that are read, one global block each.
        mlp_ratio: hidden channels of the MLPs, as a factor.
        dropout: of the MLPs' hidden channels.
        drop_path: of the last block, rising linearly from 0 at the first.
        balanced: mix in the class tokens; else the query is all.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.5,
        drop_path: float = 0.0,
        balanced: bool = True,
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        rates = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(GlobalUniBlock(dim, heads, mlp_ratio, dropout, rate) for rate in rates)
        self.balance = nn.Parameter(torch.zeros(dim)) if balanced else None

    def fuse(self, query: Float[Tensor, "b 1 d"], last: Float[Tensor, "b t n d"]) -> Float[Tensor, "b d"]:
        """The query with the class tokens of the last layer, which no norm has seen."""
        if self.balance is None:
            return query[:, 0]
        return query[:, 0].lerp(last[:, :, 0].mean(1), self.balance.sigmoid())

    def forward(
        self, layers: Sequence[Float[Tensor, "b t n d"]], grid: tuple[int, int]
    ) -> Float[Tensor, "b d"]:
        """One token of a clip from its layers, the last of which gives the class tokens.

        Raises:
            ConfigError: as many layers as there are blocks are needed.
        """
        if len(layers) != len(self.blocks):
            raise ConfigError(f"this reader reads {len(self.blocks)} layers, not {len(layers)}")
        query = self.query.repeat(len(layers[-1]), 1, 1)
        for block, tokens in zip(self.blocks, layers, strict=True):
            query = block(query, tokens, grid)
        return self.fuse(query, layers[-1])


class ClassHead(nn.Module):
    """Features → logits: norm, dropout, one linear layer."""

    def __init__(self, dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, EPS)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, classes)

    def forward(self, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.linear(self.dropout(self.norm(pooled)))
