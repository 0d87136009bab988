"""The contract of reducers: many tokens → few, by criterion × strategy × schedule.

```
tokens [b n d], Context ──► Reducer.reduce(count) ──► Reduction (see `reduction.py`)
                            counts(n, depth) ──► tokens left after every block of a host
```
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers.reduction import Reduction, identity


@dataclass(frozen=True)
class Context:
    """What a criterion may ask for. A host gives functions, so nothing is computed that no criterion wants.

    Attributes:
        attention: attention that every token receives [b n], from the queries of a name: "class", "all" or
            "last".
        attention_map: attention of every head after its softmax [b h n n]; costs its whole size.
        keys: keys [b n d] of the attention before, mean over heads.
        gradient: gradient of a loss to the tokens [b n d].
        logits: prediction [b n k] from every token alone.
        question: embedding of a question [b d], in the tokens' space.
        predictor: gives scores [b n] of tokens [b n d].
        frames: frame of every token [b n].
        grid: (t, h, w) of the tokens behind the protected ones, while they still lie on one.
        mass: source tokens that each token stands for [b n].
        protected: tokens in front that are never reduced, such as a class token.
        layer: number of the block, from 0.
    """

    attention: Callable[[str], Float[Tensor, "b n"]] | None = None
    attention_map: Callable[[], Float[Tensor, "b h n n"]] | None = None
    keys: Callable[[], Float[Tensor, "b n d"]] | None = None
    gradient: Callable[[], Float[Tensor, "b n d"]] | None = None
    logits: Callable[[], Float[Tensor, "b n k"]] | None = None
    question: Float[Tensor, "b d"] | None = None
    predictor: Callable[[Float[Tensor, "b n d"]], Float[Tensor, "b n"]] | None = None
    frames: Int[Tensor, "b n"] | None = None
    grid: tuple[int, int, int] | None = None
    mass: Float[Tensor, "b n"] | None = None
    protected: int = 0
    layer: int = 0

    def asked(self, name: str) -> Any:
        """What a criterion cannot do without.

        Raises:
            UnsupportedError: nobody gave it.
        """
        value = getattr(self, name)
        if value is None:
            raise UnsupportedError(f"this criterion needs {name}, which its host or caller does not give")
        return value

    def behind(self, count: int) -> Context:
        """The same for the tokens behind the first `count`, none of them protected."""

        def later(give: Callable[..., Tensor] | None) -> Callable[..., Tensor] | None:
            return None if give is None else lambda *asked: give(*asked)[:, count:]

        whole = self.attention_map
        return dataclasses.replace(
            self,
            attention=later(self.attention),
            attention_map=None if whole is None else lambda: whole()[..., count:, count:],
            keys=later(self.keys),
            gradient=later(self.gradient),
            logits=later(self.logits),
            frames=None if self.frames is None else self.frames[:, count:],
            mass=None if self.mass is None else self.mass[:, count:],
            protected=max(self.protected - count, 0),
        )

    def weights(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
        """The mass of every token, one each when not given."""
        return torch.ones(tokens.shape[:2], device=tokens.device) if self.mass is None else self.mass


class Reducer(nn.Module, ABC):
    """Criterion × strategy × schedule.

    Attributes:
        place: where a host reduces: "inside" a transformer block, between attention and MLP, or "after" it.
        proportional: attention to a token grows with its mass (+ log mass on the logits of keys).
        ragged: samples of a batch may keep different counts.
        gradual: tokens leave at every block; else at a few.
        config: a frozen dataclass of the method's options.
    """

    place: ClassVar[Literal["inside", "after"]] = "after"
    proportional: bool = False
    ragged: bool = False
    gradual: ClassVar[bool] = False
    config: Any

    def reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None = None) -> Reduction:
        """The reduction of these tokens.

        Args:
            tokens: protected ones in front.
            context: what the criterion may ask for.
            count: tokens to leave, the protected ones included; the method's own choice when not given.

        Raises:
            ConfigError: fewer tokens asked for than are protected, or none.
            UnsupportedError: the context lacks what the criterion needs.
        """
        if count is None:
            return self._reduce(tokens, context, None)
        least = max(context.protected, 1)
        if count < least:
            raise ConfigError(
                f"{count} tokens cannot be left of {tokens.shape[1]}: at least {least} must stay"
            )
        if count >= tokens.shape[1]:
            return identity(tokens, context.mass)
        return self._reduce(tokens, context, count)

    @abstractmethod
    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        """As `reduce`, with `count` below the tokens there are and not below the protected ones."""

    def least(self, tokens: int, protected: int) -> int:
        """Fewest tokens that one step can leave; half for methods that merge pairs."""
        return max(protected, 1)

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks at which tokens leave unless the schedule says: all, or after each quarter but the last."""
        if self.gradual:
            return tuple(range(depth))
        return tuple(sorted({max(depth * quarter // 4 - 1, 0) for quarter in (1, 2, 3)}))
