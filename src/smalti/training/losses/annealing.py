"""Weights of entropies that change while training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.quantizers.base import Quantizer


class EntropyAnnealing(nn.Module):
    """A factor of all quantizers' entropy weights: from `start` to 1 in a line over `steps`.

    ```
    step ─► factor ─► quantizers' `entropy` while a pass runs inside `over(tokenizer)`, and back
    ```
    MAGVIT-v2 (Yu et al., 2024) begins with three times the weight, so that all codes are found early, and
    ends after 2,000 steps. Steps are counted in a buffer, so a resumed training goes on where it was.

    Args:
        start: the factor at the first step.
        steps: until it is 1.
    """

    step: Tensor

    def __init__(self, start: float = 3.0, steps: int = 2000) -> None:
        super().__init__()
        self.start, self.steps = start, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def factor(self) -> float:
        """At the step in hand."""
        passed = min(int(self.step) / max(self.steps, 1), 1.0)
        return self.start + (1 - self.start) * passed

    @contextmanager
    def over(self, tokenizer: nn.Module) -> Iterator[None]:
        """One step of training, in which the tokenizer's quantizers have the weight of this step.

        Raises:
            ConfigError: none of its quantizers has an entropy weight.
        """
        weighed = entropic(tokenizer)
        if not weighed:
            raise ConfigError(f"{type(tokenizer).__name__} has no quantizer with an entropy to anneal")
        kept = [part.config for part in weighed]
        for part in weighed:
            part.config = replace(part.config, entropy=part.config.entropy * self.factor)
        try:
            yield
        finally:
            for part, config in zip(weighed, kept, strict=True):
                part.config = config
        if self.training:
            self.step += 1


def entropic(module: nn.Module) -> list[Any]:
    """The quantizers in a module that ask for an entropy."""
    quantizers = (part for part in module.modules() if isinstance(part, Quantizer))
    return [part for part in quantizers if getattr(getattr(part, "config", None), "entropy", 0)]
