"""The three networks of CDT: encoder, decoder of conditions, denoiser; all causal, whole or in parts.

```
video ─► Encoder ─► latents z ─► ContextDecoder ─► c₀ (finest) c₁ c₂ c₃
                                                       │    │  │  │
noised video ─────────────────► Denoiser: levels down ─┴────┴──┴──┴─ … ─► levels up ─► video
```
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.causal_conv import CausalConv3d, Pad, State
from smalti.nn.cdt_blocks import (
    ChannelNorm,
    Enlarge,
    EnlargeSpace,
    EnlargeTime,
    FrameAttention,
    ResnetBlock,
    shrink_space,
    shrink_time,
)

Flags = Sequence[bool]


class Level(nn.Module):
    """A residual block, then a step in space and one in time, where there are."""

    def __init__(self, block: nn.Module, space: nn.Module | None, time: nn.Module | None) -> None:
        super().__init__()
        self.block, self.space, self.time = block, space, time

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None, remember: bool = True) -> Tensor:
        """The next part; `remember` is False where the step in space forgets the part before."""
        x = self.block(x, state)
        if self.space is not None:
            x = self.space(x, state if remember else None)
        return x if self.time is None else self.time(x, state)


def through(chain: nn.ModuleList, x: Tensor, state: State | None) -> Tensor:
    """One layer after the other."""
    for layer in chain:
        x = layer(x, state)
    return x


class Encoder(nn.Module):
    """Video to mean and log variance of its latents: levels, then a direct way beside a chain of blocks.

    Args:
        widths: channels of the levels.
        latent: channels of the latents.
        space_down, time_down: what each level halves at its end.
        pad: of all convolutions.
    """

    def __init__(
        self, widths: Sequence[int], latent: int, space_down: Flags, time_down: Flags, pad: Pad
    ) -> None:
        super().__init__()
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        self.levels = nn.ModuleList(
            Level(
                ResnetBlock(before, width, pad, wide=number == 0),
                shrink_space(width, pad) if space_down[number] else None,
                shrink_time(width, pad) if time_down[number] else None,
            )
            for number, (before, width) in enumerate(pairs)
        )
        back = widths[::-1]
        self.direct = CausalConv3d(widths[-1], 2 * latent, (1, 1, 1))
        self.chain = nn.ModuleList(
            [ResnetBlock(a, b, pad) for a, b in pairwise(back)]
            + [CausalConv3d(widths[0], 2 * latent, (1, 1, 1))]
        )

    def forward(self, x: Float[Tensor, "b 3 t h w"], state: State | None = None) -> Tensor:
        """Mean and log variance [b 2z t' h' w'] of the next part."""
        for level in self.levels:
            x = level(x, state)
        return self.direct(x, state) + through(self.chain, x, state)


class ContextDecoder(nn.Module):
    """Latents to conditions for the denoiser, one at the end of every level.

    Args:
        widths: channels of the encoder's levels.
        latent, finest: channels of the latents, and of the finest condition.
        space_down, time_down: of the encoder.
        pad, enlarge: of all convolutions, and of all steps up.
        forget_last: the last block of a decoder whose finest level is not halved begins anew with every part,
            as in the official code, where parts then differ from the whole.
    """

    def __init__(
        self,
        widths: Sequence[int],
        latent: int,
        finest: int,
        space_down: Flags,
        time_down: Flags,
        pad: Pad,
        enlarge: Enlarge,
        forget_last: bool,
    ) -> None:
        super().__init__()
        self.direct = CausalConv3d(latent, widths[-1], (1, 1, 1))
        self.chain = nn.ModuleList(
            [CausalConv3d(latent, widths[0], (1, 1, 1))]
            + [ResnetBlock(a, b, pad) for a, b in pairwise(widths)]
        )
        back = (*widths[::-1], finest)
        self.levels = nn.ModuleList()
        for number, (before, width) in enumerate(pairwise(back)):
            source = number == len(widths) - 1
            inner = before if source else width
            space: nn.Module | None = None
            if space_down[::-1][number]:
                space = EnlargeSpace(inner, width, pad, enlarge)
            elif source:
                space = ResnetBlock(before, width, pad)
            time = EnlargeTime(width) if time_down[::-1][number] else None
            self.levels.append(Level(ResnetBlock(before, inner, pad), space, time))
        self.forget_last = forget_last and not space_down[0]

    def forward(self, z: Float[Tensor, "b z t h w"], state: State | None = None) -> list[Tensor]:
        """Conditions of the next part, the finest first."""
        x = self.direct(z, state) + through(self.chain, z, state)
        found = []
        for number, level in enumerate(self.levels):
            last = number == len(self.levels) - 1
            x = level(x, state, remember=not (last and self.forget_last))
            found.append(x)
        return found[::-1]


class DenoiserLevel(nn.Module):
    """Two residual blocks that know the time, attention inside frames, and steps in space and time."""

    def __init__(
        self,
        channels: int,
        out: int,
        pad: Pad,
        embedding: int,
        wide: bool = False,
        space: nn.Module | None = None,
        time: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first = ResnetBlock(channels, out, pad, embedding, wide)
        self.second = ResnetBlock(out, out, pad, embedding)
        self.attention = FrameAttention(out)
        self.space, self.time = space, time

    def mix(self, x: Tensor, state: State | None, time: Tensor) -> Tensor:
        """At this level's size."""
        return self.attention(self.second(self.first(x, state, time), state, time))

    def step(self, x: Tensor, state: State | None) -> Tensor:
        """To the next level's."""
        if self.space is not None:
            x = self.space(x, state)
        return x if self.time is None else self.time(x, state)


class Denoiser(nn.Module):
    """A U-Net that says what a noised video was; conditions join its first levels on channels.

    Args:
        width: channels of the finest level.
        multipliers: of them, a level each.
        conditions: channels of the conditions, the finest first.
        space_down, time_down: of the tokenizer; of the further levels all but the last halve the space too.
        pad, enlarge: as in `ContextDecoder`.
    """

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        conditions: Sequence[int],
        space_down: Flags,
        time_down: Flags,
        pad: Pad,
        enlarge: Enlarge,
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in multipliers]
        more = len(widths) - len(space_down)
        space = [*space_down, *[True] * (more - 1), False]
        time = [*time_down, *[False] * more]
        joined = [*conditions, *[0] * (len(widths) - len(conditions))]
        self.embed = nn.Sequential(nn.Linear(1, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.down = nn.ModuleList(
            DenoiserLevel(
                before + joined[number],
                out,
                pad,
                width,
                number == 0,
                shrink_space(out, pad) if space[number] else None,
                shrink_time(out, pad) if time[number] else None,
            )
            for number, (before, out) in enumerate(zip((3, *widths[:-1]), widths, strict=True))
        )
        self.before = ResnetBlock(widths[-1], widths[-1], pad, width)
        self.attention = FrameAttention(widths[-1])
        self.after = ResnetBlock(widths[-1], widths[-1], pad, width)
        self.up = nn.ModuleList(
            DenoiserLevel(
                2 * widths[number],
                widths[number - 1],
                pad,
                width,
                space=EnlargeSpace(widths[number - 1], widths[number - 1], pad, enlarge)
                if space[number - 1]
                else None,
                time=EnlargeTime(widths[number - 1]) if time[number - 1] else None,
            )
            for number in range(len(widths) - 1, 0, -1)
        )
        self.norm = ChannelNorm(width)
        self.leave = CausalConv3d(width, 3, (3, 7, 7), time_pad=pad, edges=pad)
        self.conditions = len(conditions)

    def forward(
        self,
        x: Float[Tensor, "b 3 t h w"],
        time: Float[Tensor, "b"],
        context: Sequence[Tensor],
        state: State | None = None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """The clean video, of the next part of a noised one at `time` in [0, 1)."""
        embedded = self.embed(time[:, None].to(x.dtype))
        kept = []
        for number, level in enumerate(self.down):
            if number < self.conditions:
                x = torch.cat([x, context[number]], 1)
            x = level.mix(x, state, embedded)  # pyright: ignore[reportCallIssue]
            kept.append(x)
            x = level.step(x, state)  # pyright: ignore[reportCallIssue]
        x = self.attention(self.before(x, state, embedded))
        x = self.after(x, state, embedded)
        for level in self.up:
            beside = kept.pop()
            if x.shape[2:] != beside.shape[2:]:
                x = F.interpolate(x.float(), beside.shape[2:], mode="nearest").to(x.dtype)
            x = level.step(level.mix(torch.cat([x, beside], 1), state, embedded), state)  # pyright: ignore[reportCallIssue]
        return self.leave(self.norm(x), state)
