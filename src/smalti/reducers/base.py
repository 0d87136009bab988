"""The contract of reducers: a `Reduction` is a linear map from N tokens to M, with the way back.

```
tokens [b n d] ──► Reducer.reduce ──► Reduction ── apply ──► [b m d] ── restore ──► [b n d]
                    (criterion ×          │
                     strategy ×           ├── mass [b m]         source tokens that each stands for
                     schedule)            ├── source_map [b n]   where each went, -1 if dropped
                                          └── then(other)        the map of both, one after the other

Gather   keeps some tokens (pruning)              index [b m]
Assign   averages groups by mass (merging)        group [b n]
Dense    mixes all with all (transforming)        weights [b m n]
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError


class Reduction(ABC):
    """A linear map from `size` tokens to `count`, for every sample of a batch."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""

    @property
    def count(self) -> int:
        """Tokens that are left."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Tokens there were."""
        return self.shape[1]

    @property
    @abstractmethod
    def mass(self) -> Float[Tensor, "b m"]:
        """Source tokens that each remaining one stands for."""

    @property
    @abstractmethod
    def source_map(self) -> Int[Tensor, "b n"]:
        """The remaining token that each source token went to (most of it, where it was spread), or -1."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Fewer tokens."""

    @abstractmethod
    def restore(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """All tokens again: each source token gets what it went to; dropped ones get zeros."""

    @abstractmethod
    def matrix(self) -> Float[Tensor, "b m n"]:
        """The map written out: `apply(x) == matrix() @ x`. For looking at, not for computing."""

    def then(self, other: Reduction) -> Reduction:
        """This reduction and another of its result, as one.

        Raises:
            ConfigError: the other starts from another count.
        """
        if other.size != self.count:
            raise ConfigError(f"a reduction to {self.count} tokens cannot be followed by one of {other.size}")
        if isinstance(self, Gather) and isinstance(other, Gather):
            return Gather(self.size, self.index.gather(1, other.index))
        if isinstance(other, Assign) and isinstance(self, Assign):
            group = torch.where(self.group >= 0, other.group.gather(1, self.group.clamp(min=0)), -1)
            return Assign(group, other.count, self.weight)
        return Dense(other.matrix() @ self.matrix())


@dataclass(frozen=True)
class Gather(Reduction):
    """Keep some tokens, drop the others.

    Attributes:
        tokens: how many there were.
        index: positions of those that stay, in their new order.
    """

    tokens: int
    index: Int[Tensor, "b m"]

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.index.shape[1], self.tokens

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """One each: a kept token stands for itself."""
        return torch.ones(self.index.shape, device=self.index.device)

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """New position of every token, -1 for dropped ones."""
        there = torch.full((len(self.index), self.size), -1, device=self.index.device)
        new = torch.arange(self.count, device=self.index.device).expand_as(self.index)
        return there.scatter(1, self.index, new)

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The kept tokens."""
        return x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))

    def restore(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """The kept tokens in their places, zeros elsewhere."""
        where = self.index[..., None].expand(-1, -1, y.shape[-1])
        return y.new_zeros(len(y), self.size, y.shape[-1]).scatter(1, where, y)

    def matrix(self) -> Float[Tensor, "b m n"]:
        """One 1 in every row."""
        return torch.nn.functional.one_hot(self.index, self.size).float()


@dataclass(frozen=True)
class Assign(Reduction):
    """Average the tokens of every group, weighted by what each stands for.

    Attributes:
        group: the group of each token, -1 to drop it.
        groups: how many there are; each must have a member.
        weight: source tokens that each token stands for; one each when not given.
    """

    group: Int[Tensor, "b n"]
    groups: int
    weight: Float[Tensor, "b n"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.groups, self.group.shape[1]

    def _weights(self) -> Float[Tensor, "b n"]:
        taken = (self.group >= 0).float()
        return taken if self.weight is None else taken * self.weight

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """Sum of the members' weights."""
        weight = self._weights()
        return weight.new_zeros(len(weight), self.count).scatter_add(1, self.group.clamp(min=0), weight)

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """The group of every token."""
        return self.group

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Weighted means, summed in float32: sums and a division, which export exactly where means do not."""
        weight = self._weights()
        where = self.group.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
        total = torch.zeros(len(x), self.count, x.shape[-1], device=x.device)
        total = total.scatter_add(1, where, x.float() * weight[..., None])
        return (total / self.mass[..., None]).to(x.dtype)

    def restore(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Every token gets its group's mean."""
        where = self.group.clamp(min=0)[..., None].expand(-1, -1, y.shape[-1])
        return y.gather(1, where) * (self.group >= 0)[..., None]

    def matrix(self) -> Float[Tensor, "b m n"]:
        """Members' shares in every row."""
        member = torch.arange(self.count, device=self.group.device)[None, :, None] == self.group[:, None]
        return member * self._weights()[:, None] / self.mass[..., None]


@dataclass(frozen=True)
class Dense(Reduction):
    """Every remaining token is a mixture of all.

    Attributes:
        weights: rows of shares.
    """

    weights: Float[Tensor, "b m n"]

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.weights.shape[1], self.weights.shape[2]

    def _columns(self) -> Float[Tensor, "b m n"]:
        """How each source token is spread over the remaining ones; columns of dropped tokens are zero."""
        return self.weights / self.weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """Shares of source tokens that each holds."""
        return self._columns().sum(2)

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """Where most of every token went."""
        return torch.where(self.weights.sum(1) > 0, self.weights.argmax(1), -1)

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The mixtures."""
        return self.weights.to(x.dtype) @ x

    def restore(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Every token gets the mean of those it went to, by its shares."""
        return self._columns().mT.to(y.dtype) @ y

    def matrix(self) -> Float[Tensor, "b m n"]:
        """The weights themselves."""
        return self.weights


@dataclass(frozen=True)
class Context:
    """What a criterion may ask for. A host gives functions, so nothing is computed that no criterion wants.

    Attributes:
        attention: attention that every token receives [b n], from the queries that a criterion names.
        keys: keys [b n d] of the attention before.
        gradient: gradient of a loss to the tokens [b n d].
        question: embedding of a question [b d].
        frames: frame of every token [b n].
        mass: source tokens that each token stands for [b n].
        protected: tokens in front that are never reduced, such as a class token.
    """

    attention: Callable[[str], Float[Tensor, "b n"]] | None = None
    keys: Callable[[], Float[Tensor, "b n d"]] | None = None
    gradient: Callable[[], Float[Tensor, "b n d"]] | None = None
    question: Float[Tensor, "b d"] | None = None
    frames: Int[Tensor, "b n"] | None = None
    mass: Float[Tensor, "b n"] | None = None
    protected: int = 0


class Reducer(ABC):
    """Criterion × strategy × schedule."""

    @abstractmethod
    def reduce(self, tokens: Float[Tensor, "b n d"], context: Context) -> Reduction:
        """The reduction of these tokens; an identity where nothing is to be removed."""
