"""First half of spectral clustering: a graph of tokens, and coordinates that pull its parts asunder.

```
tokens [b n d] ─► exp(−‖x−y‖² / 2σ²) ─► nearest neighbours, neighbourhood ─► D^-½ (D − W) D^-½
                                 └─► singular vectors of the k smallest values, signs fixed ─► [b n k]
```
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smalti.nn.medoids import unit


def heat_graph(
    tokens: Float[Tensor, "b n d"],
    sigma: float = 2.0,
    neighbours: int | None = None,
    mask: Bool[Tensor, "n n"] | None = None,
) -> Float[Tensor, "b n n"]:
    """Similarities by a heat kernel, rounded as in CenterCLIP: the start of k-medoids hangs on the last bit.

    Args:
        tokens: nodes.
        sigma: width of the kernel.
        neighbours: an edge stays if it is among the strongest of one of its ends, each counting itself; all
            edges stay when not given.
        mask: edges that may be.
    """
    squares = tokens.square().sum(-1, keepdim=True)
    distance = torch.baddbmm(squares.mT, tokens, tokens.mT, alpha=-2) + squares
    graph = (-distance / (2 * sigma**2)).clamp(max=1).exp()
    if neighbours is not None:
        weakest = graph.topk(min(neighbours, graph.shape[-1]), -1).values[..., -1:]
        strong = graph >= weakest
        graph = graph * (strong | strong.mT)
    return graph if mask is None else graph * mask


def neighbourhood(grid: tuple[int, int, int], space: int, time: int) -> Bool[Tensor, "n n"]:
    """Which tokens of a grid (t, h, w) lie in each other's window of `time` × `space` × `space`."""
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    apart = [(axis.flatten()[:, None] - axis.flatten()).abs() for axis in axes]
    reach = (time // 2, space // 2, space // 2)
    near = [distance <= far for distance, far in zip(apart, reach, strict=True)]
    return near[0] & near[1] & near[2]


def spectral_coordinates(
    graph: Float[Tensor, "b n n"], count: int, *, signs: bool = True
) -> Float[Tensor, "b n k"]:
    """Rows of the `count` last left singular vectors of the normalised Laplacian, of length one.

    Args:
        graph: symmetric similarities, with a diagonal.
        count: of coordinates.
        signs: turn every vector so that the rows of S Vᵀ have a positive sum of signed squares (Bro, Acar &
            Kolda, 2008); else they are as the library leaves them.
    """
    degree = graph.sum(-1)
    scale = degree.pow(-0.5).diag_embed()
    left, values, right = torch.linalg.svd(scale @ (degree.diag_embed() - graph) @ scale, full_matrices=False)
    if signs:
        rows = values[..., None] * right
        left = torch.where(((rows * rows.abs()).sum(-1) < 0)[:, None], -left, left)
    return unit(left[..., -count:])
