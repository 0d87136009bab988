"""How many tokens are left after every block of a host.

```
r=8            constant                       keep=0.5   that share at the end, evenly over `layers`
r=(8, 0.5)     ramp, ToMe's inflection        flops=0.6  the `keep` whose arithmetic costs that share
r=[4, 0, 8]    a list, padded with 0          counts=[…] the tokens themselves, the last repeated
                       └────────────► counts(tokens, depth): one number a block
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from smalti.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """How many tokens to take away, and where. Exactly one of `r`, `keep`, `flops` and `counts` is given.

    Attributes:
        r: tokens to remove at every block: a number, a pair (number, inflection in [-1, 1]), or a list.
        keep: share of the tokens that is left at the end, in (0, 1].
        flops: share of the blocks' arithmetic that is left, in (0, 1].
        counts: tokens left after every block.
        layers: blocks at which tokens leave, from 0; the method's own choice when not given. Lists say it
            themselves.

    Raises:
        ConfigError: none or several given, or numbers that mean nothing.
    """

    r: int | tuple[int, float] | Sequence[int] | None = None
    keep: float | None = None
    flops: float | None = None
    counts: Sequence[int] | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("r", "keep", "flops", "counts") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"give one of r, keep, flops and counts, not {given or 'none'}")
        for name in ("keep", "flops"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:  # NaN fails too
                raise ConfigError(f"{name} must lie in (0, 1], not {share}")
        if _is_ramp(self.r) and not -1 <= self.r[1] <= 1:
            raise ConfigError(
                f"an inflection must lie in [-1, 1], not {self.r[1]}; numbers for blocks are a list"
            )
        for number in [*_numbers(self.r), *(self.counts or ())]:
            if not isinstance(number, int) or number < 0:
                raise ConfigError(f"tokens are counted by whole numbers from 0, not {number!r}")
        if self.counts is not None and (not self.counts or [*self.counts] != sorted(self.counts)[::-1]):
            raise ConfigError(f"tokens left after every block can only fall, not be {list(self.counts)}")
        listed = self.counts is not None or (isinstance(self.r, Sequence) and not _is_ramp(self.r))
        if listed and self.layers is not None:
            raise ConfigError("a list says itself at which blocks tokens leave: leave layers out")

    def resolve(
        self,
        tokens: int,
        depth: int,
        *,
        protected: int = 0,
        layers: Sequence[int] | None = None,
        least: Callable[[int], int] | None = None,
        cost: Callable[[int, int], float] | None = None,
        inside: bool = False,
    ) -> tuple[int, ...]:
        """Tokens left after every block.

        Args:
            tokens: before the first block, protected ones included.
            depth: blocks.
            protected: tokens that always stay.
            layers: where the method removes tokens, unless the schedule says.
            least: fewest tokens that one step can leave of so many.
            cost: arithmetic of a block by the tokens of its attention and of its MLP; needed for `flops`.
            inside: tokens leave between attention and MLP, else after the block.

        Raises:
            ConfigError: a layer that does not exist, or tokens or a share that cannot be reached.
        """
        where = sorted(set(self.layers if self.layers is not None else layers or range(depth)))
        if not where or where[0] < 0 or where[-1] >= depth:
            raise ConfigError(f"layers {where} are not all among the {depth} blocks (0 to {depth - 1})")
        floor = least or (lambda count: max(protected, 1))
        if self.counts is not None:
            return _listed(self.counts, tokens, depth, floor)
        if self.r is not None:
            return _descend(tokens, self._removed(depth, where), floor)
        if self.keep is not None:
            counts = _at_keep(tokens, depth, protected, where, self.keep, floor)
            if counts[-1] > _last(tokens, protected, self.keep):
                raise ConfigError(
                    f"a share of {self.keep} of {tokens} tokens cannot be reached by removing them at layers "
                    f"{where}: {counts[-1]} is the least"
                )
            return counts
        assert self.flops is not None  # __post_init__ counted one
        if cost is None:
            raise ConfigError("a share of FLOPs needs the cost of a block")
        return self._search(tokens, depth, protected, where, floor, cost, inside)

    def _removed(self, depth: int, where: Sequence[int]) -> list[int]:
        assert self.r is not None
        if isinstance(self.r, int):
            return [self.r if layer in where else 0 for layer in range(depth)]
        if _is_ramp(self.r):
            rising = ramp(self.r[0], self.r[1], depth)
            return [number if layer in where else 0 for layer, number in enumerate(rising)]
        return ([int(number) for number in self.r] + [0] * depth)[:depth]

    def _search(
        self,
        tokens: int,
        depth: int,
        protected: int,
        where: Sequence[int],
        floor: Callable[[int], int],
        cost: Callable[[int, int], float],
        inside: bool,
    ) -> tuple[int, ...]:
        def spent(counts: tuple[int, ...]) -> float:
            before = (tokens, *counts[:-1])
            return sum(map(cost, before, counts if inside else before)) / (depth * cost(tokens, tokens))

        assert self.flops is not None
        low, high = 1.0 - len(where) if _evenly(where, depth) else 0.0, 1.0
        best = _at_keep(tokens, depth, protected, where, low, floor)
        if spent(best) > self.flops:
            raise ConfigError(
                f"{self.flops:.3f} of the FLOPs cannot be reached by removing tokens at layers "
                f"{list(where)}: {spent(best):.3f} is the least"
            )
        for _ in range(24):
            middle = (low + high) / 2
            counts = _at_keep(tokens, depth, protected, where, middle, floor)
            if spent(counts) <= self.flops:
                best, low = counts, middle
            else:
                high = middle
        return best


def ramp(r: int, inflection: float, depth: int) -> list[int]:
    """Tokens to remove at every block, rising (> 0) or falling (< 0) linearly around r, as ToMe counts."""
    low = int(r * (1 - inflection))
    high = 2 * r - low
    step = (high - low) / (depth - 1) if depth > 1 else 0.0
    return [int(low + step * layer) for layer in range(depth)]


def _numbers(given: int | float | Sequence[int | float] | None) -> list[int | float]:
    """The counts in an `r`; an inflection is none."""
    if given is None:
        return []
    if isinstance(given, int | float):
        return [given]
    return [given[0]] if _is_ramp(given) else list(given)


def _is_ramp(given: object) -> TypeGuard[tuple[int, float]]:
    """Whether an `r` is a pair of number and inflection."""
    return isinstance(given, tuple) and len(given) == 2


def _listed(given: Sequence[int], tokens: int, depth: int, floor: Callable[[int], int]) -> tuple[int, ...]:
    """Counts for every block, none above the tokens there are."""
    if len(given) > depth:
        raise ConfigError(f"{len(given)} counts do not fit {depth} blocks")
    counts, left = [], tokens
    for count in [*given, *[given[-1]] * (depth - len(given))]:
        least = min(left, floor(left))
        if count < least:
            raise ConfigError(f"after {left} tokens at least {least} must be left, not {count}")
        left = min(left, count)
        counts.append(left)
    return tuple(counts)


def _last(tokens: int, protected: int, keep: float) -> int:
    """Tokens at the end: that share of those that may leave, and never none."""
    return protected + max(round((tokens - protected) * keep), 0 if protected else 1)


def _descend(tokens: int, removed: Sequence[int], floor: Callable[[int], int]) -> tuple[int, ...]:
    counts = []
    for number in removed:
        tokens = max(tokens - number, min(tokens, floor(tokens)))
        counts.append(tokens)
    return tuple(counts)


def _evenly(where: Sequence[int], depth: int) -> bool:
    """Whether a method is gradual: it removes tokens at more than half of the blocks."""
    return len(where) > depth // 2


def _at_keep(
    tokens: int, depth: int, protected: int, where: Sequence[int], keep: float, floor: Callable[[int], int]
) -> tuple[int, ...]:
    """Equal numbers at every layer of a gradual method, equal shares where there are few layers.

    For a gradual method `keep` may be below 0: so many tokens leave at every layer that none is left early.
    """
    body = tokens - protected
    last = _last(tokens, protected, max(keep, 0.0))
    gone = tokens - last if keep >= 0 else body * (1 - keep)
    counts, left = [], tokens
    for layer in range(depth):
        if layer in where:
            done = (list(where).index(layer) + 1) / len(where)
            even = _evenly(where, depth)
            wanted = round(tokens - gone * done) if even else protected + round(body * keep**done)
            left = max(min(left, max(wanted, last)), min(left, floor(left)))
        counts.append(left)
    return tuple(counts)
