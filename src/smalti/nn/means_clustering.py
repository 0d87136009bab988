"""k-means of vectors into a codebook."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.nn.codebook_search import nearest_codes


def sums_of_codes(
    vectors: Float[Tensor, "n d"], ids: Int[Tensor, "n"], size: int
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d"]]:
    """How many vectors every code holds, and their sum."""
    counts = torch.bincount(ids, minlength=size).to(vectors)
    return counts, vectors.new_zeros(size, vectors.shape[1]).index_add_(0, ids, vectors)


@torch.no_grad()
def k_means(vectors: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], steps: int) -> Float[Tensor, "k d"]:
    """Lloyd's algorithm from given centres; a centre that holds no vector stays where it is."""
    for _ in range(steps):
        counts, sums = sums_of_codes(vectors, nearest_codes(vectors, centres), len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres
