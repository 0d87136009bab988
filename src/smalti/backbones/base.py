"""The contract of backbones: pixels or tokens → features, with what they cost.

```
pixels [b 3 t h w] in [0, 1] ──► normalise ──► forward ──► Features(tokens [b n d], pooled [b d], pyramid)
                                                              └──► a head (`heads.py`)
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smalti.nn.flops import count_flops
from smalti.tokens import Tokens

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """What a backbone gives.

    Attributes:
        tokens: a feature of every token that is left, class token and others in front first.
        pooled: one feature of the whole.
        pyramid: maps from fine to coarse, of backbones that have them.
        prefix: tokens in front that stand for no place.
        grid: (t, h, w) of the tokens behind the prefix, while they lie on one.
        mask: True where a token is real.
    """

    tokens: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b p"]
    pyramid: tuple[Float[Tensor, "b _c _t _h _w"], ...] = ()
    prefix: int = 0
    grid: tuple[int, int, int] | None = None
    mask: Bool[Tensor, "b n"] | None = None


torch.export.register_dataclass(Features, serialized_type_name="smalti.Features")


class Backbone(nn.Module, ABC):
    """Pixels or tokens to features.

    Attributes:
        config: a frozen dataclass.
        mean, deviation: of the pixels that the weights were trained on; taken off inside.
    """

    config: Any
    mean: ClassVar[tuple[float, float, float]] = MEAN
    deviation: ClassVar[tuple[float, float, float]] = DEVIATION

    @abstractmethod
    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1], a picture being one frame; of tokens, where a method works on them.

        Raises:
            MediaError: pixels that mean nothing.
            ConfigError: a size or source that the method cannot take; the message says which it can.
        """

    def normalise(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 t h w"]:
        """Pixels as the weights were trained on them."""
        shape = (1, 3, 1, 1, 1)
        mean, deviation = (
            torch.tensor(x, device=pixels.device).view(shape) for x in (self.mean, self.deviation)
        )
        return ((pixels - mean) / deviation).to(pixels.dtype)

    def flops(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of one forward on pixels of a shape [b 3 t h w]."""
        example = torch.zeros(shape, device=next(self.parameters()).device)
        with torch.no_grad():
            return int(count_flops(self, example))

    def params(self) -> int:
        """Numbers to be learned."""
        return sum(parameter.numel() for parameter in self.parameters())
