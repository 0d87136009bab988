"""Copies of a module that follow it slowly: teachers, guides and encoders of keys (He et al., 2020).

```
module ──► momentum_copy ──► copy ──► follow: copy ← m · copy + (1 − m) · module
```
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from smalti.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy without gradients."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(copy: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move a copy's parameters by 1 − momentum of the way to the module's; buffers become the module's.

    Raises:
        ConfigError: a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ConfigError(f"a momentum lies in [0, 1], not at {momentum}")
    for slow, fast in zip(copy.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast.to(slow), 1 - momentum)
    for slow, fast in zip(copy.buffers(), module.buffers(), strict=True):
        slow.copy_(fast)
