"""DPC-kNN on one whole matrix of distances, rounded as the authors' implementations round.

```
tokens [b n d] ─► distances / √d ─► density (k nearest) × distance to a denser one ─► centres, groups
```
With few neighbours, tokens that are nearest to each other tie in density, so rounding decides which are
centres: `smalti.nn.clustering.density_peaks` does the same in pieces, for any number of tokens, with other
    rounding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.nn import clustering

LARGEST = 2048  # tokens of which a whole matrix is made


def density_peaks(
    tokens: Float[Tensor, "b n d"],
    count: int,
    neighbours: int = 5,
    noise: Float[Tensor, "b n"] | None = None,
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b n"]]:
    """Centres by falling score, and every token's nearest centre, each centre being its own.

    Args:
        tokens: to be grouped; above `LARGEST` of them the work is done in pieces.
        count: of groups.
        neighbours: k; a token counts itself.
        noise: added to densities, to break ties.
    """
    size = tokens.shape[1]
    if size > LARGEST:
        return clustering.density_peaks(tokens, count, neighbours, noise=noise)
    tokens = tokens.float()
    distance = torch.cdist(tokens, tokens) / tokens.shape[-1] ** 0.5
    close = distance.topk(min(neighbours, size), -1, largest=False).values
    density = (-close.square().mean(-1)).exp()
    if noise is not None:
        density = density.double() + noise  # in float32 near 1 most of a small noise is lost
    denser = density[:, None] > density[:, :, None]
    largest = distance.amax((1, 2), keepdim=True)
    score = torch.where(denser, distance, largest).amin(-1) * density.float()
    centres = score.argsort(dim=-1, descending=True, stable=True)[:, :count]
    group = clustering.take(distance, centres).argmin(1)
    return centres, group.scatter(1, centres, torch.arange(count, device=group.device).expand_as(centres))
