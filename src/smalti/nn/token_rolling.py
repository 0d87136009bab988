"""Time without parameters: some tokens of every frame change places with those of its neighbours.

```
token     0    1 … f          f+1 … n−f−1    n−f … n−1            f = n // 8
frame t   own  of frame t−1   its own        of frame t+1         the first frame follows the last
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import ConfigError, nearest
from smalti.nn.shift import shift_time

PATTERNS = ("ends", "random", "moving", "official-moving", "channels", "official-channels", "none")


@dataclass(frozen=True)
class TokenRoll:
    """Which tokens are rolled along time (All in One, Wang et al., 2023). Token 0 stays where tokens roll.

    Attributes:
        pattern: "ends", the official default: the first 1/`share` behind token 0 one frame on, the last one
            frame back; "random": a new half one frame on at every call; "moving": another 1/`share` one
            frame on in every block; "official-moving": the same, but tokens in front of it are set to zero,
            as the official code does; "channels": a temporal shift of channels with zeros at both ends;
            "official-channels": what stands in the official code in its place, which shifts as many tokens
            as it means channels; "none".
        share: one over the part that is rolled each way.
    """

    pattern: str = "ends"
    share: int = 8

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ConfigError(f"no pattern of rolling {self.pattern!r}: {nearest(self.pattern, PATTERNS)}")
        if self.share < 2:
            raise ConfigError(f"a share of 1/{self.share} cannot be rolled both ways: choose 2 or more")

    def __call__(self, x: Float[Tensor, "b t n d"], layer: int = 0) -> Float[Tensor, "b t n d"]:
        """Tokens in front of block `layer`."""
        if self.pattern == "none":
            return x
        if self.pattern == "channels":
            return shift_time(x, self.share)
        if self.pattern == "official-channels":
            return _shift_tokens(x, x.shape[-1] // self.share)
        return self._rolled(x, layer, 1)

    def inverse(self, x: Float[Tensor, "b t n d"], layer: int = 0) -> Float[Tensor, "b t n d"]:
        """Every token back to its own frame.

        Raises:
            ConfigError: a pattern that loses tokens, or forgets which were rolled.
        """
        if self.pattern == "none":
            return x
        if self.pattern not in ("ends", "moving"):
            raise ConfigError(f"rolling in the pattern {self.pattern!r} cannot be undone")
        return self._rolled(x, layer, -1)

    def _rolled(self, x: Float[Tensor, "b t n d"], layer: int, step: int) -> Float[Tensor, "b t n d"]:
        tokens = x.shape[2]
        part = tokens // self.share
        if self.pattern == "random":
            out = x.clone()
            index = 1 + torch.randperm(tokens - 1, device=x.device)[: tokens // 2]
            out[:, :, index] = x[:, :, index].roll(step, 1)
            return out
        if self.pattern == "ends":
            first, middle, last = (
                x[:, :, 1 : 1 + part],
                x[:, :, 1 + part : tokens - part],
                x[:, :, tokens - part :],
            )
            return torch.cat([x[:, :, :1], first.roll(step, 1), middle, last.roll(-step, 1)], 2)
        begin = 1 + part * (layer % self.share)
        end = min(begin + part, tokens)
        before = x[:, :, 1:begin]
        before = torch.zeros_like(before) if self.pattern == "official-moving" else before
        return torch.cat([x[:, :, :1], before, x[:, :, begin:end].roll(step, 1), x[:, :, end:]], 2)


def _shift_tokens(x: Float[Tensor, "b t n d"], part: int) -> Float[Tensor, "b t n d"]:
    """The first `part` tokens from the frame after, as many behind them from the frame before, else zeros."""
    out = torch.zeros_like(x)
    out[:, :-1, :part] = x[:, 1:, :part]
    out[:, 1:, part : 2 * part] = x[:, :-1, part : 2 * part]
    out[:, :, 2 * part :] = x[:, :, 2 * part :]
    return out
