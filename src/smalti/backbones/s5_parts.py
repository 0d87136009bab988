"""The parts of S5: the decoder it looks through (ViS4mer) and the generator of its masks.

```
x [b n d] ─► (norm ─► S4 ─► dropout ─► + ─► mean of 2 tokens ─► linear, GELU: half the channels) × depth
                                                                            ─► mean ─► linear ─► logits
h [b n d] ─► norm ─► linear, GELU ─┬─► local half ───────────┐
                                   └─► mean over all tokens ─┴─► MLP ─► keep, drop [b n 2]
```
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.state_space import StateSpaceLayer


class StateSpaceBlock(nn.Module):
    """A layer of S4 on a residual path, then half the tokens and half the channels.

    Args:
        dim: channels that come in.
        state: numbers of a state.
        length: tokens that it is made for.
        kernel: of the layer.
        prenorm: the norm stands in front of the layer; else behind the sum.
        dropout: of whole channels.
    """

    def __init__(
        self,
        dim: int,
        state: int,
        length: int,
        kernel: Literal["nplr", "diagonal"],
        prenorm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.norm = nn.LayerNorm(dim)
        self.mix = StateSpaceLayer(dim, state, length, kernel, dropout)
        self.dropout = nn.Dropout1d(dropout)
        self.shrink = nn.Linear(dim, dim // 2)

    def look(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The layer of S4 alone: every token with what came before it."""
        return self.mix(self.norm(x) if self.prenorm else x)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m c"]:
        """Half as many tokens of half as many channels."""
        if x.shape[1] < 2:
            raise ConfigError("one token is left before a block that halves them: give a longer sequence")
        x = x + self.dropout(self.look(x).mT).mT
        x = x if self.prenorm else self.norm(x)
        return F.gelu(self.shrink(F.avg_pool1d(x.mT, 2).mT))


class ViS4mer(nn.Module):
    """ViS4mer's decoder (Islam & Bertasius, 2022): S4 over all tokens of a video, at ever fewer channels.

    Args:
        inputs: channels of the tokens.
        dim: channels of the first block; tokens of another width are projected.
        depth: blocks.
        length: tokens that S4's kernels are made for, halved from block to block.
        classes: of the head; 0 for none.
        state: numbers of a state.
        kernel: of S4 ("nplr") or S4D ("diagonal").
        prenorm: norms in front of the layers.
        dropout: of whole channels, in the layers and behind them.
    """

    def __init__(
        self,
        inputs: int = 1024,
        dim: int = 1024,
        depth: int = 3,
        length: int = 60 * 197,
        classes: int = 10,
        state: int = 64,
        kernel: Literal["nplr", "diagonal"] = "nplr",
        prenorm: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, dim) if inputs != dim else nn.Identity()
        self.blocks = nn.ModuleList(
            StateSpaceBlock(dim >> i, state, length >> i, kernel, prenorm, dropout) for i in range(depth)
        )
        self.decoder = nn.Linear(dim >> depth, classes) if classes else nn.Identity()

    def look(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b n d"]:
        """What the first layer of S4 makes of all tokens."""
        first: StateSpaceBlock = self.blocks[0]  # pyright: ignore[reportAssignmentType]
        return first.look(self.encoder(tokens))

    def features(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m c"]:
        """Encoded tokens → those that are left."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b k"]:
        """Tokens → logits."""
        return self.decoder(self.features(self.encoder(tokens)).mean(1))


class MaskGenerator(nn.Module):
    """Which tokens inform, from every token beside the mean of all of them.

    Args:
        dim: channels; a multiple of 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.local = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU())
        self.score = nn.Sequential(nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2))

    def forward(self, h: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 2"]:
        """Logits of keeping and dropping."""
        own, whole = self.local(self.norm(h)).chunk(2, -1)
        return self.score(torch.cat([own, whole.mean(1, keepdim=True).expand_as(own)], -1))
