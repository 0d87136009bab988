"""The contract of quantizers: latents → codes → latents.

```
z [… d] ──► forward ──► Quantized(values [… d], ids [… q], loss, stats)        lookup(ids) ──► values
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import MediaError


@dataclass(frozen=True)
class Quantized:
    """What a quantizer gives.

    Attributes:
        values: the latents that the codes stand for, with a straight-through gradient.
        ids: the codes.
        loss: what the quantizer itself asks to be minimised; 0 for quantizers without a codebook.
        stats: `usage` (share of codes met) and `perplexity` a codebook, of this batch.
    """

    values: Float[Tensor, "*batch d"]
    ids: Int[Tensor, "*batch q"]
    loss: Float[Tensor, ""]
    stats: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module, ABC):
    """Latents to codes and back, in float32 whatever the latents' precision.

    Attributes:
        codebook_sizes: how many values each of the q codes can take.
        dim: channels of a latent.
    """

    codebook_sizes: tuple[int, ...]
    dim: int

    @abstractmethod
    def forward(self, z: Float[Tensor, "*batch d"]) -> Quantized:
        """Quantize. Raises MediaError on NaN."""

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The latents of codes. Raises FormatError for a code that no codebook holds."""


def refuse_nan(z: Tensor) -> None:
    """Raise MediaError naming the first latent that is NaN."""
    if torch.isnan(z).any():
        where = [int(i) for i in torch.isnan(z).nonzero()[0]]
        raise MediaError(f"a latent is NaN at {where}: no code stands for it")


def codebook_stats(ids: Int[Tensor, "*batch q"], codebook_sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Usage and perplexity of every codebook, from the codes met; memory grows with the codes, not with K."""
    usage, perplexity = [], []
    for code, size in zip(ids.reshape(-1, ids.shape[-1]).unbind(-1), codebook_sizes, strict=False):
        _, counts = torch.unique(code, return_counts=True)
        share = counts / counts.sum()
        usage.append(len(counts) / size)
        perplexity.append(torch.exp(-(share * share.log()).sum()))
    return {"usage": torch.tensor(usage), "perplexity": torch.stack(perplexity)}
