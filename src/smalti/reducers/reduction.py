"""What every reducer gives: a `Reduction` is a linear map from N tokens to M, with the way back.

```
tokens [b n d] ── apply ──► [b m d] ── restore ──► [b n d]

mass [b m]         source tokens that each stands for
source_map [b n]   where each went, -1 if dropped
then(other)        the map of both, one after the other

Gather   keeps some tokens (pruning)              index [b m]
Assign   averages groups by mass (merging)        group [b n]
Dense    mixes all with all (transforming)        weights [b m n]
```
Samples of a batch may keep different counts: `count` is the largest, `mask` says which tokens are real, and
the others hold zeros and have mass zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn import rows


class Reduction(ABC):
    """A linear map from `size` tokens to `count`, for every sample of a batch."""

    weight: Float[Tensor, "b n"] | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""

    @property
    def count(self) -> int:
        """Tokens that are left, in the sample that keeps most."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Tokens there were."""
        return self.shape[1]

    @property
    @abstractmethod
    def mass(self) -> Float[Tensor, "b m"]:
        """Source tokens that each remaining one stands for; zero where `mask` is False."""

    @property
    @abstractmethod
    def mask(self) -> Bool[Tensor, "b m"]:
        """True where a remaining token is real."""

    @property
    @abstractmethod
    def source_map(self) -> Int[Tensor, "b n"]:
        """The remaining token that each source token went to (most of it, where it was spread), or -1."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Fewer tokens."""

    @abstractmethod
    def spread(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """All tokens again: each source token gets what it went to; dropped ones get zeros."""

    def restore(
        self, y: Float[Tensor, "b m d"], dropped: Float[Tensor, "b n d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """All tokens again: each gets what it went to.

        Args:
            y: the remaining tokens, after whatever was done with them.
            dropped: what tokens get that went nowhere, such as what they were before; zeros when not given.
        """
        spread = self.spread(y)
        return spread if dropped is None else torch.where(self.source_map[..., None] < 0, dropped, spread)

    @abstractmethod
    def matrix(self) -> Float[Tensor, "b m n"]:
        """The map written out: `apply(x) == matrix() @ x`. For looking at, not for computing."""

    def then(self, other: Reduction) -> Reduction:
        """This reduction and another of its result, as one. The other weighs its tokens by this one's `mass`.

        Raises:
            ConfigError: the other starts from another count.
        """
        if other.size != self.count:
            raise ConfigError(f"a reduction to {self.count} tokens cannot be followed by one of {other.size}")
        if isinstance(self, Gather) and isinstance(other, Gather):
            return Gather(self.size, _follow(other.index, self.index), self.weight)
        if isinstance(self, Gather | Assign) and isinstance(other, Gather | Assign):
            weight = self.weight
            if isinstance(self, Gather) and other.weight is not None:
                weight = self.spread(other.weight[..., None]).squeeze(-1)
            return Assign(_follow(self.source_map, other.source_map), other.count, weight)
        matrix = other.matrix() @ self.matrix()
        every = torch.eye(other.count, device=matrix.device).expand(matrix.shape[0], -1, -1)
        return Dense(matrix, self.weight, self.spread(other.spread(every)))


def _follow(first: Int[Tensor, "b n"], second: Int[Tensor, "b m"]) -> Int[Tensor, "b n"]:
    """Where the second map sends what the first one gives; -1 stays -1."""
    return torch.where(first >= 0, second.gather(1, first.clamp(min=0)), -1)


@dataclass(frozen=True)
class Gather(Reduction):
    """Keep some tokens, drop the others.

    Attributes:
        tokens: how many there were.
        index: positions of those that stay, in their new order; -1 where a sample keeps fewer than others.
        weight: source tokens that each token stands for; one each when not given.
    """

    tokens: int
    index: Int[Tensor, "b m"]
    weight: Float[Tensor, "b n"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.index.shape[1], self.tokens

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """True where a token was kept."""
        return self.index >= 0

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """A kept token stands for what it stood for before."""
        if self.weight is None:
            return self.mask.float()
        return self.weight.gather(1, self.index.clamp(min=0)) * self.mask

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """New position of every token, -1 for dropped ones."""
        there = torch.full((self.index.shape[0], self.size + 1), -1, device=self.index.device)
        new = torch.arange(self.count, device=self.index.device).expand_as(self.index)
        return there.scatter(1, torch.where(self.mask, self.index, self.size), new)[:, :-1]

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The kept tokens."""
        return rows.take(x, self.index.clamp(min=0)) * self.mask[..., None]

    def spread(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """The kept tokens in their places, zeros elsewhere."""
        place = torch.where(self.mask, self.index, self.size)[..., None].expand(-1, -1, y.shape[-1])
        return y.new_zeros(y.shape[0], self.size + 1, y.shape[-1]).scatter(1, place, y)[:, :-1]

    def matrix(self) -> Float[Tensor, "b m n"]:
        """One 1 in every row of a kept token."""
        return nn.functional.one_hot(self.index.clamp(min=0), self.size).float() * self.mask[..., None]


@dataclass(frozen=True)
class Assign(Reduction):
    """Average the tokens of every group, weighted by what each stands for.

    Attributes:
        group: the group of each token, -1 to drop it.
        groups: how many there are; one without members is masked.
        weight: source tokens that each token stands for; one each when not given.
    """

    group: Int[Tensor, "b n"]
    groups: int
    weight: Float[Tensor, "b n"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.groups, self.group.shape[1]

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """True where a group has members."""
        return self.mass > 0

    def _weights(self) -> Float[Tensor, "b n"]:
        taken = (self.group >= 0).float()
        return taken if self.weight is None else taken * self.weight

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """Sum of the members' weights."""
        weight = self._weights()
        return weight.new_zeros(weight.shape[0], self.count).scatter_add(1, self.group.clamp(min=0), weight)

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """The group of every token."""
        return self.group

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Sums of the members' shares, in float32 or better; a token alone in its group stays as it is."""
        group = self.group.clamp(min=0)
        share = self._weights() / _nonzero(self.mass).gather(1, group)
        exact = torch.promote_types(x.dtype, torch.float32)
        return rows.total(x.to(exact) * share[..., None], group, self.count).to(x.dtype)

    def spread(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Every token gets its group's mean."""
        return rows.take(y, self.group.clamp(min=0)) * (self.group >= 0)[..., None]

    def matrix(self) -> Float[Tensor, "b m n"]:
        """Members' shares in every row."""
        member = torch.arange(self.count, device=self.group.device)[None, :, None] == self.group[:, None]
        return member * self._weights()[:, None] / _nonzero(self.mass)[..., None]


@dataclass(frozen=True)
class Dense(Reduction):
    """Every remaining token is a mixture of all.

    Attributes:
        weights: rows of shares; a row of zeros is masked.
        weight: source tokens that each token stands for; one each when not given.
        back: shares of the remaining tokens in every restored one; each token's own shares of `weights`,
            normalised, when not given.
    """

    weights: Float[Tensor, "b m n"]
    weight: Float[Tensor, "b n"] | None = None
    back: Float[Tensor, "b n m"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that are left and tokens there were."""
        return self.weights.shape[1], self.weights.shape[2]

    def _columns(self) -> Float[Tensor, "b m n"]:
        """How each source token is spread over the remaining ones; columns of dropped tokens are zero."""
        if self.back is not None:
            return self.back.mT
        return self.weights / _nonzero(self.weights.sum(1, keepdim=True))

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """True where a row has shares."""
        return self.weights.abs().sum(2) > 0

    @property
    def mass(self) -> Float[Tensor, "b m"]:
        """Source tokens that each holds, by its shares of them."""
        columns = self._columns()
        return columns.sum(2) if self.weight is None else (columns * self.weight[:, None]).sum(2)

    @property
    def source_map(self) -> Int[Tensor, "b n"]:
        """Where most of every token went."""
        columns = self._columns()
        return torch.where(columns.sum(1) > 0, columns.argmax(1), -1)

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The mixtures."""
        return self.weights.to(x.dtype) @ x

    def spread(self, y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Every token gets the mean of those it went to, by its shares."""
        return self._columns().mT.to(y.dtype) @ y

    def matrix(self) -> Float[Tensor, "b m n"]:
        """The weights themselves."""
        return self.weights


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total == 0, 1, total)


def identity(x: Float[Tensor, "b n d"], weight: Float[Tensor, "b n"] | None = None) -> Gather:
    """The reduction that keeps every token."""
    return Gather(x.shape[1], torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1), weight)


def protect(reduction: Reduction, count: int, weight: Float[Tensor, "b n"] | None = None) -> Reduction:
    """The same reduction behind `count` tokens in front that stay as they are.

    Args:
        reduction: of the tokens behind.
        count: tokens in front.
        weight: source tokens that each token stands for, those in front included.
    """
    if isinstance(reduction, Gather):
        return Gather(reduction.tokens + count, _prefixed(reduction.index, count), weight)
    if isinstance(reduction, Assign):
        return Assign(_prefixed(reduction.group, count), reduction.groups + count, weight)
    weights = reduction.matrix()
    front = torch.eye(count, device=weights.device).expand(weights.shape[0], -1, -1)
    back = reduction.back if isinstance(reduction, Dense) else None
    return Dense(_blocks(front, weights), weight, None if back is None else _blocks(front, back))


def _prefixed(index: Int[Tensor, "b n"], count: int) -> Int[Tensor, "b m"]:
    front = torch.arange(count, device=index.device).expand(index.shape[0], -1)
    return torch.cat([front, torch.where(index >= 0, index + count, -1)], 1)


def _blocks(first: Float[Tensor, "b i j"], second: Float[Tensor, "b k l"]) -> Float[Tensor, "b m n"]:
    rows, columns = first.shape[1:]
    whole = second.new_zeros(second.shape[0], rows + second.shape[1], columns + second.shape[2])
    whole[:, :rows, :columns], whole[:, rows:, columns:] = first, second
    return whole
