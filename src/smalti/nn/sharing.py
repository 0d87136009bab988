"""Every token shared out among a few by likeness, so that nothing is lost."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def share_out(
    features: Float[Tensor, "b n f"],
    basis: Float[Tensor, "b m f"],
    *,
    temperature: float,
    most: int = 0,
) -> Float[Tensor, "b m n"]:
    """softmax over the basis of cosine / temperature: columns sum to 1.

    Towards temperature 0 every token belongs to its nearest of the basis alone; towards infinity to all.

    Args:
        features: what tokens are compared by.
        basis: those of the tokens that are left.
        temperature: of cosines, above 0.
        most: members of the basis that a token is shared out among, equally near ones kept; all when 0.
    """
    features, basis = F.normalize(features.float(), dim=-1), F.normalize(basis.float(), dim=-1)
    logits = basis @ features.mT / temperature
    if 0 < most < logits.shape[1]:
        least = logits.topk(most, 1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits.softmax(1)


def mixtures(shares: Float[Tensor, "b m n"], weight: Float[Tensor, "b n"]) -> Float[Tensor, "b m n"]:
    """The means that shares of weighted tokens amount to: rows sum to 1, and a row of nothing is zero."""
    weighted = shares * weight[:, None]
    return weighted / weighted.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
