"""Dumbbell units: blocks that turn a map into semantic tokens, work on these, and recover the map.

```
x [b h w c] ─► b0 Swin ─┬─────────────────────────────────────────────────────────────► b5 x reads s ─► x
                        └► b1 pool windows, read around ─► b2 read x ─► b3, b4 mix ─► s ──┘
```
Used by STViT-R (Chang et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest
from smalti.nn.cross import CrossBlock
from smalti.nn.windows import WindowBlock, join, partition, surroundings

UNIT = 6  # blocks of a dumbbell unit
Keys = Literal["inside", "beyond"]


@dataclass(frozen=True)
class DumbbellConfig:
    """How semantic tokens are made, mixed and read.

    Attributes:
        window: tokens a side of Swin's windows.
        sample: semantic tokens a side of each of these.
        keys: where semantic tokens look: "inside" the map, as for classification: b1 sees `reach[0]` tokens
            across and the pooled centres, b2 and b5 the whole map; or "beyond" its edge, where nothing is,
            as for detection: `reach` tokens across in b1, b2 and b5, no centres among keys, `shortcut` on.
        reach: tokens across that b1, b2 and b5 see.
        mlp_ratio: hidden channels of the MLPs, as a factor.
        relative: attention among semantic tokens has a bias by relative position.
        conv_positions: a depth-wise convolution on the pooled centres.
        shortcut: pooled centres are added to what they read.
        global_centres: learned ones are added to the first unit's queries in b2.
        layer_scale: start in all blocks but b0.
        image_size: height and width; binding only for `relative` and `global_centres`.
        eps: of all norms.
    """

    window: int = 7
    sample: int = 3
    keys: Keys = "inside"
    reach: tuple[int, int, int] = (10, 0, 0)
    mlp_ratio: float = 4.0
    relative: bool = False
    conv_positions: bool = False
    shortcut: bool = False
    global_centres: bool = False
    layer_scale: float = 1e-5
    image_size: int = 224
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.keys not in get_args(Keys):
            raise ConfigError(f"no keys {self.keys!r}: {nearest(self.keys, get_args(Keys))}")
        if self.keys == "beyond" and (self.global_centres or not self.shortcut):
            raise ConfigError('keys="beyond" goes with shortcut=True and without global centres')

    @property
    def side(self) -> int:
        """Semantic tokens a side of the whole map, which is 1/16 of the image."""
        return self.image_size // (16 * self.window) * self.sample


class Sampler(CrossBlock):
    """b1, and b2 of detection: centres of every window read what lies around it.

    Args:
        config: of the stage.
        dim: channels.
        heads: of the attention.
        reach: tokens across that a window's centres see.
        positions: convolve the centres.
        drop_path: share of samples without a branch, in training.
    """

    def __init__(
        self, config: DumbbellConfig, dim: int, heads: int, reach: int, positions: bool, drop_path: float
    ) -> None:
        super().__init__(dim, heads, config.mlp_ratio, True, config.eps, config.layer_scale, drop_path)
        self.config, self.reach = config, reach
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if positions else None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, maps: Float[Tensor, "b h w c"], centres: Float[Tensor, "b y x c"] | None = None
    ) -> Float[Tensor, "b y x c"]:
        """Semantic tokens of a map; pooled from its windows unless centres are given."""
        config, size = self.config, (maps.shape[1], maps.shape[2])
        windows, padded = partition(maps, config.window)
        whole = join(windows, padded, padded)
        count = [length // config.window * config.sample for length in padded]
        if centres is None:
            pooled = F.adaptive_max_pool2d(rearrange(windows, "k s r c -> k c s r"), config.sample)
        else:
            pooled = rearrange(partition(centres, config.sample)[0], "k s r c -> k c s r")
        if self.conv is not None:
            pooled = pooled + self.conv(pooled)
        start = rearrange(pooled, "k c s r -> k (s r) c")
        beyond = config.keys == "beyond"
        keys, seen = surroundings(whole, config.window, self.reach, beyond=beyond, size=size)
        if beyond:
            found = start + self.read(start, keys, seen[:, None, None])
        elif bool(seen.all()):
            found = self.read(start, torch.cat([start, keys], 1))
        else:
            real = torch.cat([seen.new_ones(start.shape[:2]), seen], 1)
            found = self.read(start, torch.cat([start, keys], 1), real[:, None, None])
        if config.shortcut and not beyond:
            found = start + found
        found = rearrange(found, "k (s r) c -> k s r c", s=config.sample)
        found = join(found, count, count)
        return self.feed(found.flatten(1, 2)).view_as(found)


class Mixer(CrossBlock):
    """b3 and b4: semantic tokens look at each other, in each window (local) or all."""

    def __init__(self, config: DumbbellConfig, dim: int, heads: int, local: bool, drop_path: float) -> None:
        side = config.sample if local else config.side
        super().__init__(
            dim,
            heads,
            config.mlp_ratio,
            True,
            config.eps,
            config.layer_scale,
            drop_path,
            (side, side) if config.relative else None,
        )
        self.local, self.sample = local, config.sample

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, maps: Float[Tensor, "b y x c"]
    ) -> Float[Tensor, "b y x c"]:
        """The same map, mixed."""
        size = maps.shape[1:3]
        if self.local:
            windows, _ = partition(maps, self.sample)
            flat = windows.flatten(1, 2)
            read = join(self.read(flat, flat).view_as(windows), size, size)
        else:
            if self.bias is not None and self.bias.side != tuple(size):
                raise ConfigError(
                    f"relative positions were made for {self.bias.side} semantic tokens, not {tuple(size)}: "
                    "set image_size"
                )
            read = self.read(maps.flatten(1, 2), maps.flatten(1, 2)).view_as(maps)
        return self.feed((maps + read).flatten(1, 2)).view_as(maps)


class Reader(CrossBlock):
    """b2 and b5 of classification: a map reads another; b5 of detection: its windows read what is around."""

    def __init__(self, config: DumbbellConfig, dim: int, heads: int, reach: int, drop_path: float) -> None:
        super().__init__(dim, heads, config.mlp_ratio, True, config.eps, config.layer_scale, drop_path)
        self.config, self.reach = config, reach

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, maps: Float[Tensor, "b h w c"], other: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b h w c"]:
        """The first map, changed by the tokens of another."""
        flat = maps.flatten(1, 2)
        return self.feed(flat + self.read(flat, other)).view_as(maps)

    def around(
        self, maps: Float[Tensor, "b h w c"], other: Float[Tensor, "b y x c"]
    ) -> Float[Tensor, "b h w c"]:
        """The first map, whose windows read the semantic tokens around each."""
        windows, padded = partition(maps, self.config.window)
        keys, seen = surroundings(other, self.config.sample, self.reach, beyond=True)
        read = self.read(windows.flatten(1, 2), keys, seen[:, None, None]).view_as(windows)
        maps = maps + join(read, padded, maps.shape[1:3])
        return self.feed(maps.flatten(1, 2)).view_as(maps)


class DumbbellStage(nn.Module):
    """Units of six blocks, of which the odd ones mix semantic tokens within windows and the even ones all.

    Args:
        config: of all units.
        dim: channels.
        heads: of the attention.
        drop_path: of every block; their number is the depth.

    Raises:
        ConfigError: a depth that is not made of units.
    """

    def __init__(self, config: DumbbellConfig, dim: int, heads: int, drop_path: tuple[float, ...]) -> None:
        super().__init__()
        if len(drop_path) % UNIT:
            raise ConfigError(f"{len(drop_path)} blocks are not units of {UNIT}")
        self.config = config
        beyond = config.keys == "beyond"
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(drop_path):
            match i % UNIT:
                case 0:
                    block: nn.Module = WindowBlock(
                        dim, heads, config.window, mlp_ratio=config.mlp_ratio, eps=config.eps, drop_path=rate
                    )
                case 1:
                    block = Sampler(config, dim, heads, config.reach[0], config.conv_positions, rate)
                case 2 if beyond:
                    block = Sampler(config, dim, heads, config.reach[1], False, rate)
                case 2 | 5:
                    block = Reader(config, dim, heads, config.reach[2], rate)
                case _:
                    block = Mixer(config, dim, heads, bool(i % 2), rate)
            self.blocks.append(block)
        if config.global_centres:
            self.centres = nn.Parameter(torch.zeros(1, config.side**2, dim))
            nn.init.trunc_normal_(self.centres, std=0.02)

    def semantic(self, x: Float[Tensor, "b h w c"], unit: int = 0) -> Float[Tensor, "b y x c"]:
        """Semantic tokens that a unit makes of a map (b1 to b4)."""
        s = None
        for step in range(1, UNIT - 1):
            s = self._step(unit * UNIT + step, x, s)
        assert s is not None  # four steps were made
        return s

    def recover(
        self, x: Float[Tensor, "b h w c"], s: Float[Tensor, "b y x c"], unit: int = 0
    ) -> Float[Tensor, "b h w c"]:
        """The map again, told what its semantic tokens have become (b5)."""
        return self._step(unit * UNIT + UNIT - 1, x, s)

    def _step(self, number: int, x: Tensor, s: Tensor | None) -> Tensor:
        """One block; gives the map in b0 and b5, else semantic tokens."""
        block = self.blocks[number]
        match number % UNIT:
            case 0:
                return block(x)
            case 1:
                return block(x)
            case 3 | 4:
                return block(s)
        assert s is not None  # b2 and b5 follow b1
        if self.config.keys == "beyond":
            return block(x, s) if number % UNIT == 2 else cast(Reader, block).around(x, s)
        if number % UNIT == 5:
            return block(x, s.flatten(1, 2))
        query = s
        if number == 2 and self.config.global_centres:
            if self.centres.shape[1] != s.shape[1] * s.shape[2]:
                raise ConfigError(
                    f"{self.centres.shape[1]} global centres do not fit {s.shape[1]} × {s.shape[2]} semantic "
                    "tokens: set image_size"
                )
            query = s + self.centres.view(1, *s.shape[1:])
        return block(query, torch.cat([s.flatten(1, 2), x.flatten(1, 2)], 1))

    def trace(self, x: Float[Tensor, "b h w c"]) -> list[Tensor]:
        """What every block gives: the map in b0 and b5, else semantic tokens."""
        given: list[Tensor] = []
        s = None
        for number in range(len(self.blocks)):
            out = self._step(number, x, s)
            given.append(out)
            if number % UNIT in (0, UNIT - 1):
                x = out
            else:
                s = out
        return given

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """All units."""
        s = None
        for number in range(len(self.blocks)):
            if number % UNIT in (0, UNIT - 1):
                x = self._step(number, x, s)
            else:
                s = self._step(number, x, s)
        return x
