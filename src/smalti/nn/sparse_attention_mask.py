"""A mask of attention that is learned and grows sparse: a number for every pair of tokens (Lin et al., 2022).

```
V [m m] ─► sigmoid ─► ones on the diagonal ─► A [m m] ─► (A − 1) · 10,000 ─► added to logits
                 └──► mean off the diagonal ─► loss
```
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError

BLOCKED = -10_000.0


class SparseAttentionMask(nn.Module):
    """The mask of one number of tokens, shared by all blocks, heads and samples.

    A soft entry of 0.99 adds −100 already: soft is nearly hard. All is computed in float32.

    Args:
        tokens: that attend to each other.
        hard: entries are 0 or 1, from 0.5 on, and get no gradient but the loss's.
    """

    def __init__(self, tokens: int, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard
        self.weight = nn.Parameter(torch.randn(tokens, tokens))

    def __len__(self) -> int:
        return len(self.weight)

    def others(self) -> Float[Tensor, "m m"]:
        """Soft entries off the diagonal, where zeros stand."""
        own = torch.eye(len(self), dtype=torch.bool, device=self.weight.device)
        return self.weight.float().sigmoid().masked_fill(own, 0)

    def entries(self) -> Float[Tensor, "m m"]:
        """A, from 0 to 1, as attention sees it."""
        entries = self.others() + torch.eye(len(self), device=self.weight.device)
        return (entries.detach() >= 0.5).float() if self.hard else entries

    def forward(self) -> Float[Tensor, "m m"]:
        """What to add to logits."""
        return (1 - self.entries()) * BLOCKED

    def loss(self) -> Float[Tensor, ""]:
        """Mean of soft entries, those on the diagonal counted as zeros; in [0, 1]."""
        return self.others().mean()

    def density(self, threshold: float = 0.5) -> float:
        """Share of pairs of different tokens whose entry is above a threshold."""
        return float((self.others() > threshold).sum() / max(len(self) * (len(self) - 1), 1))

    def harden(self) -> None:
        """Make the mask hard and stop its learning."""
        self.hard = True
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def expand(self, tokens: int, mode: str = "diagonal") -> SparseAttentionMask:
        """A mask of more tokens.

        Args:
            tokens: of the new mask; a multiple of the old number, or the number itself.
            mode: "diagonal" copies the old one into every block on the diagonal and leaves the rest random,
                "bilinear" stretches it, "random" begins anew.

        Raises:
            ConfigError: another mode, or a number that is no multiple.
        """
        if mode not in ("diagonal", "bilinear", "random"):
            raise ConfigError(f"no way to expand {mode!r}: choose diagonal, bilinear or random")
        if tokens % len(self) and mode != "random":
            raise ConfigError(f"a mask of {len(self)} tokens cannot become one of {tokens}, no multiple")
        grown = SparseAttentionMask(tokens, self.hard).to(self.weight.device, self.weight.dtype)
        grown.weight.requires_grad_(self.weight.requires_grad)
        if mode == "diagonal":
            for start in range(0, tokens, len(self)):
                block = slice(start, start + len(self))
                grown.weight[block, block] = self.weight
        elif mode == "bilinear":
            whole = cast(
                Tensor, F.interpolate(self.weight[None, None].float(), (tokens, tokens), mode="bilinear")
            )
            grown.weight.copy_(whole[0, 0])
        return grown
