"""Entropies of soft codes: of every sample (small: it decides) and of their mean (large: all codes are used).

```
affinities over K codes ──softmax──► p [n K] ──► mean of H(p)    and    H(mean of p)
```
Neither form holds p for all samples: a codebook is taken in chunks of rows, recomputed in the backward pass;
binary codes factorise (see `binary_entropies`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smalti.nn.process_sums import mean_over_processes

ROWS = 256

Entropies = tuple[Tensor, Tensor]


def entropy(probabilities: Float[Tensor, "*shape"], epsilon: float = 1e-12) -> Float[Tensor, ""]:
    """-Σ p log(p + ε) in nats over all entries."""
    return -(probabilities * (probabilities + epsilon).log()).sum()


def by_rows(
    chunk: Callable[..., tuple[Tensor, ...]], rows: Tensor, *shared: Tensor
) -> list[tuple[Tensor, ...]]:
    """Apply a function to 256 rows at a time and keep only its results; the backward pass repeats it."""
    parts = rows.split(ROWS)
    if not torch.is_grad_enabled():
        return [chunk(part, *shared) for part in parts]
    return [checkpoint(chunk, part, *shared, use_reentrant=False, preserve_rng_state=False) for part in parts]


def softmax_entropies(
    vectors: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    bias: Float[Tensor, "k"] | None = None,
    temperature: float = 1.0,
    epsilon: float = 1e-12,
) -> Entropies:
    """Mean entropy of the samples and entropy of their mean, p = softmax((x·c + bias) / temperature).

    Args:
        vectors: samples.
        codebook: codes.
        bias: added to every code's score.
        temperature: of the softmax.
        epsilon: inside the logarithm of the mean.
    """
    bias = codebook.new_zeros(len(codebook)) if bias is None else bias

    def chunk(rows: Tensor, codes: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        log_share = F.log_softmax(torch.addmm(offset, rows, codes.t()) / temperature, -1)
        share = log_share.exp()
        return -(share * log_share).sum(), share.sum(0)

    parts = by_rows(chunk, vectors, codebook, bias)
    sample = torch.stack([part[0] for part in parts]).sum() / max(len(vectors), 1)
    total = torch.stack([part[1] for part in parts]).sum(0)
    return sample, entropy(mean_over_processes(total, len(vectors)), epsilon)


def binary_entropies(logits: Float[Tensor, "n bits"], group_bits: int, epsilon: float = 1e-12) -> Entropies:
    """The same for codes of independent bits, exactly, without a matrix of samples × codes.

    ```
    H of a sample = Σ H(bit)                          p of a code = product over its bits, so over a group:
    mean over samples of p [2^g] = Aᵀ B / n           A [n 2^⌈g/2⌉], B [n 2^⌊g/2⌋]: products of half the bits
    ```
    For 18 bits and one group that is one matrix product instead of 2^18 exponentials a sample.

    Args:
        logits: log odds of every bit being 1.
        group_bits: the second entropy is summed over groups of so many bits; it is exact where one group
            holds them all, and an upper bound otherwise.
        epsilon: inside the logarithm of the mean.
    """
    count = len(logits)
    size = logits.abs()
    sample = (F.softplus(-size) + size * torch.sigmoid(-size)).sum() / max(count, 1)
    joint = []
    for group in logits.split(group_bits, 1):
        middle = (group.shape[1] + 1) // 2
        total = _products(group[:, :middle]).t() @ _products(group[:, middle:])
        joint.append(entropy(mean_over_processes(total, count), epsilon))
    return sample, torch.stack(joint).sum()


def _products(logits: Float[Tensor, "n bits"]) -> Float[Tensor, "n codes"]:
    """Probability of every combination of bits."""
    codes = torch.ones_like(logits[:, :1]) if logits.shape[1] else logits.new_ones(len(logits), 1)
    for bit in torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1).unbind(1):
        codes = (codes[:, :, None] * bit[:, None, :]).flatten(1)
    return codes
