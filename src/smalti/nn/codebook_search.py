"""The code that scores highest for every vector, without the matrix of all scores.

```
vectors [n d] ──► 256 rows × 2,048 codes at a time ──► best of every 64 codes ──► best of the best ──► ids [n]
```
A tile of scores stays in the cache: it is written by the matrix product, read once by a vectorised maximum,
and only the winning 64 scores of a row are searched for their place. Memory is that of one tile, whatever n
and K. Everything is float32, also under autocast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS, COLUMNS, RUN = 256, 2048, 64


@torch.no_grad()
def nearest_codes(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, "n"]:
    """The nearest code of every vector by Euclidean distance; of equally near ones, any.

    |x - c|² differs from -2 (x·c - |c|²/2) by what is the same for all codes. Both are first centred on the
    codebook's mean, so that an offset common to all costs no precision.
    """
    centre = codebook.float().mean(0)
    codes = codebook.float() - centre
    return highest_scores(vectors.float() - centre, codes, -0.5 * codes.square().sum(1))


@torch.no_grad()
def highest_scores(
    vectors: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    bias: Float[Tensor, "k"] | None = None,
    temperature: float = 0.0,
) -> Int[Tensor, "n"]:
    """The code of largest `vector · code + bias`, or one drawn with odds of `exp(score / temperature)`.

    Args:
        vectors: what asks.
        codebook: what is asked.
        bias: added to the scores of every code.
        temperature: above 0, Gumbel noise of this size joins the scores, which draws from their softmax.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codes = vectors.float(), codebook.float().t()
        bias = codes.new_zeros(codes.shape[1]) if bias is None else bias.float()
        tile = vectors.new_empty(min(ROWS, len(vectors)) * min(COLUMNS, codes.shape[1]))
        ids = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
        for rows, found in zip(vectors.split(ROWS), ids.split(ROWS), strict=True):
            found.copy_(_search(rows, codes, bias, temperature, tile))
    return ids


def _search(rows: Tensor, codes: Tensor, bias: Tensor, temperature: float, tile: Tensor) -> Tensor:
    best, ids = None, None
    for start in range(0, codes.shape[1], COLUMNS):
        part = slice(start, min(start + COLUMNS, codes.shape[1]))
        width = part.stop - start
        scores = tile[: len(rows) * width].view(len(rows), width)
        torch.addmm(bias[part], rows, codes[:, part], out=scores)
        if temperature > 0:
            scores.sub_(torch.empty_like(scores).exponential_().log_().mul_(temperature))
        value, place = _row_maximum(scores)
        if best is None or ids is None:
            best, ids = value, place
        else:
            ids = torch.where(value > best, place + start, ids)
            best = torch.maximum(best, value)
    assert ids is not None  # there is a code
    return ids


def _row_maximum(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value of every row and its first place; `max` of it all, which tracks places, is far slower."""
    if scores.shape[1] % RUN:
        return scores.max(1)
    runs = scores.view(len(scores), -1, RUN)
    value, run = runs.amax(2).max(1)
    inside = runs[torch.arange(len(runs), device=runs.device), run].argmax(1)
    return value, run * RUN + inside
