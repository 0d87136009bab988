"""`Tokens`: what flows between the rooms.

```
pixels [b c t h w] ──► tokenizer ──► Tokens ──► reducer ──► fewer Tokens
                                      values [b n d]   continuous latents, or
                                      ids    [b n q]   q codes a token
                                      mask   [b n]     True where a token is real (ragged batches)
                                      coords [b n 3]   t, y, x of the token's centre, source frames and pixels
                                      mass   [b n]     source patches that the token stands for
                                      grid   (t, h, w) when n = t·h·w, row by row
                                      source           size, frames, times and padding of what was encoded
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalti.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """What was encoded, so that decoding gives the same size and length back.

    Attributes:
        height, width: pixels of the source.
        frames: frames that these tokens stand for; 1 is a picture.
        first: number of the first of these frames in the source; not 0 for a part of a longer clip.
        fps: frames a second, where the source has a steady rate.
        times: seconds of every frame, where the rate is not steady.
        pad: frames, rows and columns that the tokenizer added at the end, and decoding removes.
    """

    height: int
    width: int
    frames: int = 1
    first: int = 0
    fps: float | None = None
    times: tuple[float, ...] | None = None
    pad: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences. See the module's drawing for shapes and meaning.

    `tokens[:k]` keeps the first k tokens, `tokens.codebooks(k)` the first k codes of every token,
    `tokens.to(device)` moves, `Tokens.cat(parts)` joins in time.

    Raises:
        ConfigError: neither ids nor values given, or shapes that do not agree.
    """

    values: Float[Tensor, "b n d"] | None = None
    ids: Int[Tensor, "b n q"] | None = None
    mask: Bool[Tensor, "b n"] | None = None
    coords: Float[Tensor, "b n 3"] | None = None
    mass: Float[Tensor, "b n"] | None = None
    grid: tuple[int, int, int] | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.values is None and self.ids is None:
            raise ConfigError("Tokens need values [b n d] or ids [b n q]; both are missing")
        for field, part in self._tensors().items():
            if tuple(part.shape[:2]) != self.shape:
                raise ConfigError(
                    f"Tokens.{field} has shape {tuple(part.shape)}, expected {self.shape} in front"
                )
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] != self.shape[1]:
            raise ConfigError(f"Tokens.grid {self.grid} does not hold {self.shape[1]} tokens")

    def _tensors(self) -> dict[str, Tensor]:
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in fields if isinstance(value, Tensor)}

    def _map(self, function, **changes) -> Tokens:
        return dataclasses.replace(self, **{k: function(v) for k, v in self._tensors().items()}, **changes)

    @property
    def shape(self) -> tuple[int, int]:
        """Batch size b and tokens n."""
        part = self.ids if self.ids is not None else self.values
        assert part is not None  # __post_init__ refused both missing
        return part.shape[0], part.shape[1]

    def __len__(self) -> int:
        return self.shape[1]

    def __getitem__(self, index: slice) -> Tokens:
        """Some of the tokens of every sequence; the grid is kept only if none is lost."""
        kept = range(len(self))[index]
        return self._map(lambda x: x[:, index], grid=self.grid if len(kept) == len(self) else None)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tokens:
        """Every tensor on `device`; values, which alone are latents, also in `dtype`."""
        moved = self._map(lambda x: x.to(device=device))
        if dtype is not None and moved.values is not None:
            moved = dataclasses.replace(moved, values=moved.values.to(dtype))
        return moved

    def codebooks(self, count: int) -> Tokens:
        """The first `count` codes of every token: a lower quality of a progressive tokenizer."""
        if self.ids is None:
            raise ConfigError("these tokens are continuous: they have no codebooks to choose from")
        if not 1 <= count <= self.ids.shape[-1]:
            raise ConfigError(f"these tokens have {self.ids.shape[-1]} codes, not {count}: choose 1 to all")
        return dataclasses.replace(self, ids=self.ids[..., :count])

    @staticmethod
    def cat(parts: Sequence[Tokens]) -> Tokens:
        """Join token sequences in time; grid, source and times are kept where every part has them.

        Raises:
            ConfigError: no part, or parts that differ in fields, batch, codes, or height and width.
        """
        if not parts:
            raise ConfigError("Tokens.cat needs at least one part")
        first = parts[0]
        joined: dict[str, Tensor] = {}
        for name in {name: None for part in parts for name in part._tensors()}:
            pieces = [getattr(part, name) for part in parts]
            if any(piece is None for piece in pieces):
                raise ConfigError(f"Tokens.cat: some parts have {name}, others do not")
            _refuse_difference(name, [(len(piece), *piece.shape[2:]) for piece in pieces])
            joined[name] = torch.cat(pieces, dim=1)
        grids = [part.grid for part in parts if part.grid is not None]
        _refuse_difference("grid rows and columns", [g[1:] for g in grids])
        grid = (sum(g[0] for g in grids), *grids[0][1:]) if len(grids) == len(parts) else None
        sources = [part.source for part in parts if part.source is not None]
        _refuse_difference("source height and width", [(s.height, s.width) for s in sources])
        source = None
        if len(sources) == len(parts):
            times = tuple(t for s in sources if s.times is not None for t in s.times)
            source = dataclasses.replace(
                sources[0],
                frames=sum(s.frames for s in sources),
                times=times if all(s.times is not None for s in sources) else None,
                pad=(sources[-1].pad[0], *sources[0].pad[1:]),
            )
        return dataclasses.replace(first, **joined, grid=grid, source=source)


def _refuse_difference(what: str, shapes: Sequence[tuple[int, ...]]) -> None:
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ConfigError(f"Tokens.cat: {what} differ, {shapes[0]} and {shape} in part {index}")
