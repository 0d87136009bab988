"""Sets of different sizes in one row, each attending to itself alone.

```
sets [n_1 d], [n_2 d], … ─► one row [n d] + the number of every token's set and its place (t, x, y, z) [n 5]
attention of such a row = that of every set by itself; sets of equal sizes run together
```
x counts rows and y columns, as places of a clip do; a clip lies in the plane z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError

BASE = 10_000.0
AXES = 4  # t, x, y, z


@dataclass(frozen=True)
class PackedSets:
    """Tokens of several sets behind each other.

    Attributes:
        features: of every token.
        places: number of its set, from 0 on and rising, then t, x, y and z.

    Raises:
        ConfigError: other shapes, or sets that are not behind each other.
    """

    features: Float[Tensor, "n d"]
    places: Int[Tensor, "_n 5"]

    def __post_init__(self) -> None:
        number = self.places[:, 0]
        if len(self.features) != len(number) or not len(number):
            raise ConfigError(f"{len(self.features)} features for {len(number)} places: one each is needed")
        steps = number.diff()
        if number[0] != 0 or (steps < 0).any() or (steps > 1).any():
            raise ConfigError("sets must be numbered 0, 1, 2, … and lie behind each other")

    @property
    def counts(self) -> list[int]:
        """Tokens of every set."""
        return torch.bincount(self.places[:, 0]).tolist()

    def holding(self, features: Float[Tensor, "n e"]) -> PackedSets:
        """Other features at the same places."""
        return replace(self, features=features)

    def sets(self) -> list[tuple[Tensor, Tensor]]:
        """Features [k d] and places (t, x, y, z) [k 4] of every set."""
        parts = (self.features.split(self.counts), self.places[:, 1:].split(self.counts))
        return list(zip(*parts, strict=True))


def packed(sets: Sequence[tuple[Tensor, Tensor]]) -> PackedSets:
    """One row of sets, each features [k d] and places (t, x, y, z) [k 4].

    Raises:
        ConfigError: no set, or an empty one.
    """
    if not sets or not all(len(features) for features, _ in sets):
        raise ConfigError("nothing to pack: every set needs at least one token")
    numbered = [F.pad(places.long(), (1, 0), value=number) for number, (_, places) in enumerate(sets)]
    return PackedSets(torch.cat([features for features, _ in sets]), torch.cat(numbered))


def packed_attention(
    q: Float[Tensor, "h m c"],
    k: Float[Tensor, "h n c"],
    v: Float[Tensor, "h n c"],
    asking: Sequence[int],
    asked: Sequence[int],
) -> Float[Tensor, "h m c"]:
    """Every set's queries ask the keys of the same set.

    Args:
        q, k, v: of sets behind each other.
        asking, asked: queries and keys of every set.
    """
    rows = [part.split(list(counts), 1) for part, counts in ((q, asking), (k, asked), (v, asked))]
    alike: dict[tuple[int, int], list[int]] = {}
    for number, sizes in enumerate(zip(asking, asked, strict=True)):
        alike.setdefault(sizes, []).append(number)
    out: list[Tensor] = [q] * len(asking)
    for numbers in alike.values():
        sq, sk, sv = (torch.stack([part[number] for number in numbers]) for part in rows)
        for number, answer in zip(numbers, F.scaled_dot_product_attention(sq, sk, sv), strict=True):
            out[number] = answer
    return torch.cat(out, 1)


def place_angles(places: Float[Tensor, "n axes"] | Int[Tensor, "n axes"], channels: int) -> Tensor:
    """Angles [n channels/2] that turn a head's pairs of channels by its place, a quarter of them an axis.

    Wave k of an axis is 10,000^(−k/channels), for k below an eighth of the channels.

    Raises:
        ConfigError: channels that are no multiple of eight.
    """
    if channels % (2 * AXES):
        raise ConfigError(f"a head needs a multiple of {2 * AXES} channels to turn, not {channels}")
    order = torch.arange(channels // (2 * AXES), device=places.device, dtype=torch.float32)
    return (places.float()[..., None] * BASE ** (-order / channels)).flatten(1)
