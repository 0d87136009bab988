"""The contract of quantizers: latents → codes → latents.

```
z [… d] ──► forward ──► Quantized(values [… d], ids [… q], loss, stats)        lookup(ids) ──► values
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError, FormatError, MediaError


@dataclass(frozen=True)
class Quantized:
    """What a quantizer gives.

    Attributes:
        values: the latents that the codes stand for, float32, with a gradient for the latents given.
        ids: the codes.
        loss: what the quantizer itself asks to be minimised; 0 for quantizers without a codebook.
        stats: `usage` (share of codes met) and `perplexity` a codebook, of this batch.
    """

    values: Float[Tensor, "*batch d"]
    ids: Int[Tensor, "*codes q"]
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


class Float32Quantizer(Quantizer):
    """A quantizer whose codebooks stay float32 when the model around it is cast to half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Quantizer:
        def keep_float32(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            halved = applied.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(applied.device) if halved else applied

        return super()._apply(keep_float32, recurse)


class VectorwiseQuantizer(Float32Quantizer):
    """A quantizer that takes every latent by itself, wherever it stands.

    ```
    z [… c] ──mask──► [n c], float32 ──► quantize ──► [n d], [n q] ──► back to their places
    ```
    Latents that `mask` leaves out may hold anything: they get value 0 and id 0, and count nowhere.
    """

    @property
    def channels(self) -> int:
        """Channels that `forward` takes: those of a latent, unless a quantizer says otherwise."""
        return self.dim

    @abstractmethod
    def quantize(self, z: Float[Tensor, "n c"]) -> Quantized:
        """Quantize finite float32 latents in a row. Stats are of the quantizer's own, if it has any."""

    def forward(self, z: Float[Tensor, "*batch c"], mask: Bool[Tensor, "*batch"] | None = None) -> Quantized:
        """Quantize the latents, or those where `mask` is true.

        Raises:
            ConfigError: a count of channels that the quantizer was not built for.
            MediaError: a latent that is NaN or infinite.
        """
        if z.shape[-1] != self.channels:
            raise ConfigError(
                f"latents have {z.shape[-1]} channels, but this {type(self).__name__} takes {self.channels}"
            )
        refuse_infinite(z if mask is None else z.masked_fill(~mask[..., None], 0))
        kept = z.reshape(-1, self.channels) if mask is None else z[mask]
        with torch.autocast(z.device.type, enabled=False):
            found = self.quantize(kept.float())
        stats = codebook_stats(found.ids, self.codebook_sizes) | found.stats
        values, ids = (_in_place(rows, z.shape[:-1], mask) for rows in (found.values, found.ids))
        return Quantized(values, ids, found.loss, stats)


class QuantizerConfig(ABC):
    """The configuration of a vectorwise quantizer, for those that are built of others."""

    @abstractmethod
    def build(self) -> VectorwiseQuantizer:
        """A new quantizer of this configuration."""


def _in_place(rows: Tensor, shape: torch.Size, mask: Tensor | None) -> Tensor:
    """Rows where they came from, and zeros where nothing was taken."""
    whole = (*shape, rows.shape[-1])
    return rows.view(whole) if mask is None else rows.new_zeros(whole).index_put((mask,), rows)


def refuse_nan(z: Tensor) -> None:
    """Raise MediaError naming the first latent that is NaN."""
    if torch.isnan(z).any():
        where = [int(i) for i in torch.isnan(z).nonzero()[0]]
        raise MediaError(f"a latent is NaN at {where}: no code stands for it")


def refuse_infinite(z: Tensor) -> None:
    """Raise MediaError naming the first latent that is NaN or infinite."""
    if not torch.isfinite(z).all():
        refuse_nan(z)
        where = [int(i) for i in torch.isinf(z).nonzero()[0]]
        raise MediaError(f"a latent is infinite at {where}: no code stands for it")


def check_codes(
    ids: Int[Tensor, "*batch q"], codebook_sizes: tuple[int, ...], *, prefix: bool = False
) -> None:
    """Raise FormatError for a wrong count of codes or for the first that no codebook holds.

    Args:
        ids: codes.
        codebook_sizes: of every code.
        prefix: fewer codes than codebooks are right too.
    """
    count, most = ids.shape[-1], len(codebook_sizes)
    if not (1 <= count <= most if prefix else count == most):
        wanted = f"1 to {most}" if prefix else str(most)
        raise FormatError(f"{count} codes a token, but this quantizer takes {wanted}")
    sizes = torch.tensor(codebook_sizes[:count], device=ids.device)
    bad = (ids < 0) | (ids >= sizes)
    if bad.any():
        where = [int(i) for i in bad.nonzero()[0]]
        raise FormatError(f"id {int(ids[tuple(where)])} at {where} is outside its codebook")


def mean_square(first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the squared difference; 0 where there is nothing."""
    return (first - second).square().sum() / max(first.numel(), 1)


def codebook_stats(ids: Int[Tensor, "*batch q"], codebook_sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Usage and perplexity of every codebook, from the codes met; memory grows with the codes, not with K."""
    usage, perplexity = [], []
    for code, size in zip(ids.unbind(-1), codebook_sizes, strict=False):
        _, counts = torch.unique(code, return_counts=True)
        share = counts / counts.sum()
        usage.append(len(counts) / size)
        perplexity.append(torch.exp(-(share * share.log()).sum()))
    return {"usage": torch.tensor(usage), "perplexity": torch.stack(perplexity)} if usage else {}
