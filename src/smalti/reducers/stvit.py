"""STViT: tokens become a few semantic tokens, cluster centres found by pooling and attention."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Dense, Gather, Reduction, identity, protect
from smalti.registry import Official, Paper, system


@dataclass(frozen=True)
class STViTConfig:
    """Attributes:
    side: semantic tokens a side, where no count is asked for: of each frame, or of each window.
    steps: of attention, each one step of soft clustering; 2 in the paper.
    dim: channels of tokens, for learned projections; none: directions of the tokens themselves are compared.
    heads: of learned attention.
    pooling: first centres are means of their cells ("mean"), or weighted by learned masks ("masked").
    global_centres: learned ones are added to the queries of the second step.
    window: tokens a side of the windows that centres belong to, each to one; the whole frame when 0.
    reach: tokens across, around its window, that a centre sees.
    """

    side: int = 4
    steps: int = 2
    dim: int | None = None
    heads: int = 1
    pooling: Literal["mean", "masked"] = "mean"
    global_centres: bool = False
    window: int = 0
    reach: int = 10

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "masked"):
            raise ConfigError(f"no pooling {self.pooling!r}: choose mean or masked")
        if self.side < 1 or self.steps < 0 or self.window < 0:
            raise ConfigError(
                f"side ({self.side}) must be above 0; steps ({self.steps}) and window ({self.window}) from 0"
            )
        if self.dim is None and (self.pooling == "masked" or self.global_centres or self.heads != 1):
            raise ConfigError("masked pooling, global centres and heads are learned: give dim")
        if self.dim is not None and self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")
        if self.window and self.reach < self.window:
            raise ConfigError(f"reach ({self.reach}) must not be below the window ({self.window})")


def layout(grid: tuple[int, int, int], count: int) -> tuple[int, int] | None:
    """Rows and columns of cells in each frame, as square as the tokens allow; none where `count` has none."""
    t, h, w = grid
    if count % t:
        return None
    fits = [(r, count // t // r) for r in range(1, h + 1) if count // t % r == 0 and count // t // r <= w]
    return min(fits, key=lambda cells: abs(math.log(cells[0] * w / (cells[1] * h))), default=None)


def cells(size: int, grid: tuple[int, int, int] | None, count: int) -> Int[Tensor, "n"]:
    """The cell of every token: of nearly equal rectangles of each frame, or of runs where there are none."""
    found = None if grid is None else layout(grid, count)
    if grid is None or found is None:
        return torch.arange(size) * count // size
    rows, columns = (torch.arange(length) * n // length for length, n in zip(grid[1:], found, strict=True))
    plane = (rows[:, None] * found[1] + columns).flatten()
    return (torch.arange(grid[0])[:, None] * found[0] * found[1] + plane).flatten()


def in_reach(
    grid: tuple[int, int, int], cell: Int[Tensor, "n"], count: int, window: int, reach: int
) -> Bool[Tensor, "m n"]:
    """Tokens of the same frame around the window in which the middle of each cell lies."""
    frame, row, column = (p.flatten() for p in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    seen = torch.ones(count, len(cell), dtype=torch.bool)
    for place, length in ((row, grid[1]), (column, grid[2])):
        members = torch.zeros(count).scatter_add(0, cell, torch.ones(len(cell)))
        middle = torch.zeros(count).scatter_add(0, cell, place.float()) / members
        start = (middle / window).floor().long() * window - (reach - window) // 2
        start = start.clamp(0, max(length - reach, 0))
        seen &= (place >= start[:, None]) & (place < start[:, None] + reach)
    own = torch.zeros(count).scatter_reduce(0, cell, frame.float(), "amax")
    return seen & (frame == own[:, None])


class Step(nn.Module):
    """Where one step of learned clustering looks: shares of attention, mean over heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)

    def logits(self, x: Float[Tensor, "b m d"], y: Float[Tensor, "b n d"]) -> Float[Tensor, "b h m n"]:
        """Scaled products of queries and keys."""
        q, k = (
            layer(self.norm(z)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, z in ((self.q, x), (self.k, y))
        )
        return q @ k.mT * q.shape[-1] ** -0.5


class Compare(nn.Module):
    """The same without anything learned: cosines · √d, which identity projections of LayerNorm give."""

    def logits(self, x: Float[Tensor, "b m d"], y: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 m n"]:
        """Scaled cosines of what differs from the mean of channels."""
        size = x.shape[-1:]
        return (F.layer_norm(x, size) @ F.layer_norm(y, size).mT * size[0] ** -0.5)[:, None]


@system(
    "stvit",
    room="reducers",
    paper=Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View",
        2023,
        "https://arxiv.org/abs/2303.08685",
    ),
    official=Official("changsn/STViT-R", "MIT"),
    presets={
        "default": STViTConfig(),
        "deit-t": STViTConfig(dim=192, heads=3, pooling="masked", global_centres=True),
        "deit-s": STViTConfig(dim=384, heads=6, pooling="masked", global_centres=True),
        "deit-b": STViTConfig(dim=768, heads=12, pooling="masked", global_centres=True),
        "swin": STViTConfig(side=3, window=7),
    },
    tags=("learned", "cluster", "semantic-tokens", "image", "video", "dense-prediction"),
    status="reconstruction",
)
class STViT(Reducer):
    """STViT (Chang et al., 2023): pooled centres that attend to all tokens, each step one of soft clustering.

    ```
    tokens [b n d] ─► cells ─► P = means [b m d] ─► attend to [P; tokens] ─► S ─► attend to [S; tokens] ─► …
    shares of all steps multiplied out ─► Dense [b m n]; back: attention of the tokens to S [b n m]
    ```
    Sits behind the first third of the blocks; 16 tokens a frame unless a count is asked for. The default
    learns nothing: LayerNorm's directions are compared. With `dim`, queries and keys are learned, and so are
    masks of pooling and global centres if asked. Tokens weigh by their mass. The way back is the recovery of
    STViT-R: every token is the mean of the centres that it attends to. Deviations, because a reduction is
    linear: no value projection, no MLP and no offset of the cells; the backbone of the same name has all.

    Raises:
        UnsupportedError: windows without a grid.
    """

    def __init__(self, config: STViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or STViTConfig()
        learned = config.dim is not None
        self.steps = nn.ModuleList(
            Step(config.dim, config.heads) if config.dim is not None else Compare()
            for _ in range(config.steps + 1)  # the last compares on the way back
        )
        self.pooled = nn.Linear(config.dim or 0, 1) if learned and config.pooling == "masked" else None
        self.centres = None
        if learned and config.global_centres:
            self.centres = nn.Parameter(torch.zeros(1, config.side**2, config.dim or 0))
            nn.init.trunc_normal_(self.centres, std=0.02)

    def layers(self, depth: int) -> tuple[int, ...]:
        """Behind the first third of the blocks: 4 of 12."""
        return (max(depth // 3 - 1, 0),)

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        front = context.protected
        body, behind = tokens[:, front:], context.behind(front)
        left = self._count(body.shape[1], behind) if count is None else count - front
        if left >= body.shape[1]:
            return identity(tokens, context.mass)
        if left == 0:  # nothing but protected tokens was asked for
            stay = torch.arange(front, device=tokens.device).expand(len(tokens), -1)
            return Gather(tokens.shape[1], stay, context.mass)
        return protect(self._clustered(body, behind, left), front, context.mass)

    def _count(self, size: int, context: Context) -> int:
        frames, h, w = context.grid or (1, 1, size)
        windows = 1 if not self.config.window else -(-h // self.config.window) * -(-w // self.config.window)
        return self.config.side**2 * frames * windows

    def _clustered(self, tokens: Float[Tensor, "b n d"], context: Context, count: int) -> Dense:
        size, grid = tokens.shape[1], context.grid
        grid = grid if grid is not None and math.prod(grid) == size else None
        if self.config.window and grid is None:
            raise UnsupportedError(
                "windows need the grid of the tokens, which the host or caller does not give"
            )
        tokens = tokens.float()
        mass = context.weights(tokens).float()
        cell = cells(size, grid, count)
        unseen = torch.zeros(count, size)
        if self.config.window and grid is not None:
            seen = in_reach(grid, cell, count, self.config.window, self.config.reach)
            unseen = unseen.masked_fill(~seen, -torch.inf)
        cell, unseen = cell.to(tokens.device), unseen.to(tokens.device)
        shares = self._pool(tokens, cell, count, mass)
        weight = mass.log()[:, None, None]
        own = torch.full((count, count), -torch.inf, device=tokens.device).fill_diagonal_(0)
        own = torch.zeros_like(own) if not self.config.window else own
        *steps, last = cast("Iterable[Step | Compare]", self.steps)
        for number, step in enumerate(steps):
            centres = shares @ tokens
            query = centres
            if number == 1 and self.centres is not None:
                query = centres + F.interpolate(self.centres.mT, count, mode="linear").mT
            held = (shares @ mass[..., None]).clamp(min=1e-6).log().mT[:, None]
            inner = step.logits(query, centres) + own + held
            attention = torch.cat([inner, step.logits(query, tokens) + unseen + weight], -1)
            attention = attention.softmax(-1).mean(1)
            shares = attention[..., :count] @ shares + attention[..., count:]
        back = last.logits(tokens, shares @ tokens) + self._ways_back(unseen)
        return Dense(shares, context.mass, back.softmax(-1).mean(1))

    def _pool(
        self, tokens: Float[Tensor, "b n d"], cell: Int[Tensor, "n"], count: int, mass: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b m n"]:
        """Shares of the tokens of a cell in its centre."""
        member = F.one_hot(cell, count).T.bool()
        score = mass.log() if self.pooled is None else mass.log() + self.pooled(tokens).squeeze(-1)
        return score[:, None].masked_fill(~member, -torch.inf).softmax(-1)

    @staticmethod
    def _ways_back(unseen: Float[Tensor, "m n"]) -> Float[Tensor, "n m"]:
        """A token reads the centres that saw it, or all where none did."""
        back = unseen.mT
        return torch.where(back.isinf().all(1, keepdim=True), 0, back)
