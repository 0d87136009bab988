"""What it takes to fit reducers into a family of models: a `Host`.

```
model ──► find(model) ──► Host: blocks, prefix, how to reduce at a block, how to pool afterwards
```
A host changes nothing but instance attributes and hooks, which `Undo` takes back in reverse order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from smalti.reducers.hosts.handle import Handle

MISSING = object()


class Undo:
    """Changes to modules that can be taken back."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], Any]] = []

    def put(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an instance attribute; undoing puts back what the instance had, or removes it."""
        before = module.__dict__.get(name, MISSING)
        module.__dict__[name] = value

        def back() -> None:
            if before is MISSING:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before

        self._steps.append(back)

    def swap(self, module: nn.Module, name: str, forward: Callable[..., Any]) -> None:
        """Give one module a class of its own with another `forward`, which accelerate's hooks call too."""
        before = type(module)
        module.__class__ = subclass(before, name, forward)
        self._steps.append(lambda: setattr(module, "__class__", before))
        if body_of(module) != "forward":
            self.put(module, body_of(module), MethodType(type(module).forward, module))

    def hook(self, hook: Any) -> None:
        """Remember a hook's handle."""
        self._steps.append(hook.remove)

    def then(self, step: Callable[[], Any]) -> None:
        """Remember any other step that takes a change back."""
        self._steps.append(step)

    def __call__(self) -> None:
        """Take everything back, the last first."""
        while self._steps:
            self._steps.pop()()


@dataclass(frozen=True)
class Sizes:
    """Attributes:
    dim: channels of the tokens.
    hidden: channels inside the MLP, times the products in and out of it, over two (three products: 3/2).
    """

    dim: int
    hidden: float

    def cost(self, before: int, after: int) -> float:
        """Multiply-adds of a block whose attention sees `before` tokens and whose MLP sees `after`."""
        attention = 4 * before * self.dim**2 + 2 * before**2 * self.dim
        return attention + 2 * after * self.dim * self.hidden


class Host(ABC):
    """One model of a family that reducers fit into.

    Attributes:
        model: the vision model that runs the blocks.
        blocks: its transformer blocks in order.
        prefix: tokens in front that never leave, such as the class token.
        sizes: what a block costs.
    """

    model: nn.Module
    blocks: Sequence[nn.Module]
    prefix: int
    sizes: Sizes

    @classmethod
    @abstractmethod
    def find(cls, model: nn.Module) -> Host | None:
        """A host of this model, or None if it is of another family.

        Raises:
            UnsupportedError: of this family, but of a kind that reducers do not fit into; says why.
        """

    @abstractmethod
    def install(self, handle: Handle, undo: Undo) -> None:
        """Make every block and the pooling call the handle."""

    def grid(self, tokens: int) -> tuple[int, int, int] | None:
        """(t, h, w) of the tokens behind the prefix, if they are a whole square picture."""
        side = round((tokens - self.prefix) ** 0.5)
        return (1, side, side) if side * side == tokens - self.prefix else None


def body_of(block: nn.Module) -> str:
    """The attribute that holds a block's own computation; accelerate's hooks wrap it under another name."""
    return "_old_forward" if "_old_forward" in block.__dict__ else "forward"


@cache
def subclass(parent: type[nn.Module], prefix: str, forward: Callable[..., Any]) -> type[nn.Module]:
    """A class that differs in its `forward`, for `isinstance` still its parent."""
    return type(prefix + parent.__name__, (parent,), {"forward": forward, "__module__": parent.__module__})


def weighted_mean(x: Float[Tensor, "b n d"], mass: Float[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
    """Mean over tokens by what each stands for."""
    if mass is None:
        return x.mean(1)
    share = (mass / mass.sum(1, keepdim=True)).to(x.dtype)
    return (x * share[..., None]).sum(1)
