"""Shifts of channels between neighbouring frames: time for free, in the place of attention over time.

```
channels   0 … 1/8     from the frame after
         1/8 … 2/8     from the frame before       zeros beyond the ends
         2/8 … 1       its own
```
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shift_time(x: Float[Tensor, "b t n d"], fold: int = 8) -> Float[Tensor, "b t n d"]:
    """Temporal shift (Lin, Gan & Han, 2019) of every token by a 1/`fold` of its channels each way."""
    part = x.shape[-1] // fold
    after, before, own = x[..., :part], x[..., part : 2 * part], x[..., 2 * part :]
    later = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], 1)
    earlier = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], 1)
    return torch.cat([later, earlier, own], -1)
