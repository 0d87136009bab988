"""The audited model, run so that every library's looks alike.

```
pixels ─► mean, deviation ─► model ─┬─► the last block's tokens ─► restored [b n d], as left [b m d]
                                    └─► pooled [b d], logits [b k] or none
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers.hosts import find
from smalti.reducers.hosts.base import weighted_mean
from smalti.reducers.hosts.handle import Handle
from smalti.training.losses.vgg import IMAGENET_DEVIATION, IMAGENET_MEAN


@dataclass(frozen=True)
class Answer:
    """What a model says of a batch.

    Attributes:
        left: tokens after the last block.
        tokens: the same, all of them again; dropped ones as they last were.
        pooled: the features that a head is given, or that the model gives.
        logits: of a model with a classifier.
    """

    left: Float[Tensor, "b m d"]
    tokens: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b c"]
    logits: Float[Tensor, "b k"] | None


class Subject:
    """A model to audit, in evaluation mode.

    Args:
        model: one that a host knows.
        size: pixels a side; the model's own when not given.

    Raises:
        UnsupportedError: no host knows the model, or its size is not known.
        ConfigError: a size that its patches do not divide, or that the model cannot take.
    """

    def __init__(self, model: nn.Module, size: int | None = None) -> None:
        self.model = model.eval()
        self.host = find(model)
        self.classifier = _classifier(model)
        self.device = next(model.parameters()).device
        settings = getattr(model, "pretrained_cfg", None) or {}
        self.mean = torch.tensor(settings.get("mean", IMAGENET_MEAN)).view(3, 1, 1)
        self.deviation = torch.tensor(settings.get("std", IMAGENET_DEVIATION)).view(3, 1, 1)
        self.size = _size(model, size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.size // _patch(self.model)
        return side, side

    def input(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """What the model takes, for RGB in [0, 1]."""
        return ((pixels - self.mean) / self.deviation).to(self.device)

    @torch.no_grad()
    def answer(self, pixels: Float[Tensor, "b 3 s s"], handle: Handle | None = None) -> Answer:
        """What the model says of RGB in [0, 1], reduced by that handle if one is given."""
        seen: dict[str, Tensor] = {}

        def last(module: nn.Module, given: Any, output: Any) -> None:
            seen["left"] = output[0] if isinstance(output, tuple) else output

        def head(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.setdefault("pooled", given[0])

        hooks = [self.host.blocks[-1].register_forward_hook(last)]
        if self.classifier is not None:
            hooks.append(self.classifier.register_forward_pre_hook(head))
        try:
            output = self.model(self.input(pixels))
        finally:
            for hook in hooks:
                hook.remove()
        left = seen["left"]
        whole = left if handle is None else handle.restore(left)
        logits = None if self.classifier is None else getattr(output, "logits", output)
        pooled = seen["pooled"] if logits is not None else self._pooled(output, handle)
        return Answer(left.float(), whole.float(), pooled.float(), None if logits is None else logits.float())

    def _pooled(self, output: Any, handle: Handle | None) -> Float[Tensor, "b c"]:
        if isinstance(output, Tensor):
            return output
        for name in ("image_embeds", "pooler_output"):
            if getattr(output, name, None) is not None:
                return getattr(output, name)
        if getattr(output, "last_hidden_state", None) is not None:
            return weighted_mean(output.last_hidden_state, None if handle is None else handle.mass)
        raise UnsupportedError(f"{type(self.model).__name__} gives neither features nor logits to compare")


def _classifier(model: Any) -> nn.Module | None:
    found = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "classifier", None)
    found = found[0] if isinstance(found, tuple) else found
    return found if isinstance(found, nn.Linear) else None


def _patch(model: Any) -> int:
    embed = getattr(model, "patch_embed", None)
    found = getattr(embed, "patch_size", None) or getattr(_vision(model), "patch_size", None)
    if found is None:
        raise UnsupportedError(f"the patches of {type(model).__name__} are of unknown size")
    return found if isinstance(found, int) else found[0]


def _size(model: Any, size: int | None) -> int:
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    own = own or getattr(_vision(model), "image_size", None)
    own = own if own is None or isinstance(own, int) else own[0]
    chosen = own if size is None else size
    if chosen is None:
        raise UnsupportedError(
            f"the pictures that {type(model).__name__} takes are of unknown size: give one"
        )
    if chosen < 1 or chosen % _patch(model):
        raise ConfigError(f"a side of {chosen} pixels is no multiple of the {_patch(model)} of a patch")
    if chosen != own and hasattr(model, "patch_embed") and not getattr(model, "dynamic_img_size", False):
        raise ConfigError(f"this model takes {own} pixels a side only: make it with dynamic_img_size=True")
    return chosen


def _vision(model: Any) -> Any:
    config = getattr(model, "config", None)
    return getattr(config, "vision_config", config)
