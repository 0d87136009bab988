"""Residual finite scalar quantization whose stages halve the step: any first k stages decode.

Every channel is quantized by itself (FSQ, Mentzer et al., 2023). A channel opens at one stage, with
`2·limit + 1` levels, and is refined by three levels at every later one:

```
stage o (opens)   … ─┬──-2──┬──-1──┬────── 0 ──────┬──+1──┬──+2──┬─ …      step Δ, zero bin twice as wide
stage o + 1          │-  +│-  +│ -1 │  0  │ +1 │-  +│-  +│              step Δ/2 on what is left
```

The zero bin is twice as wide as the others at every stage, as in embedded image coders (JPEG 2000):
most latents of a picture are near zero, and wide zero bins cost few bits. What is left after a stage
is a residual in a known bin, so the codes of stage k refine those before and never change them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError, FormatError
from smalti.quantizers.base import Quantized, Quantizer, codebook_stats, refuse_nan

CODEBOOK_LIMIT = 1 << 16


@dataclass(frozen=True)
class ResidualFSQConfig:
    """Attributes:
    step: the first stage's step; stage k has `step / 2**k`.
    opened: how many channels are open at every stage, in ascending order.
    limits: the largest level of the channels that open at each stage; a latent beyond is clamped.
    first_limit: the largest level of channel 0, which holds the mean and needs the widest range.
    """

    step: float = 1.0
    opened: tuple[int, ...] = (12, 24, 48, 72, 96)
    limits: tuple[int, ...] = (4, 6, 6, 6, 6)
    first_limit: int = 16


class ResidualFSQ(Quantizer):
    """Residual finite scalar quantization with nested steps (FSQ: Mentzer et al., 2023, arXiv 2309.15505).

    ```
    z [… d] ──► levels [… d stages] ──► ids [… q]: mixed-radix groups of levels, at most 65,536 codes each
    ```
    `stages[k]` codes a latent decode to quality k + 1. Differs from the paper: no tanh bound (levels are
    clamped), steps are nested by halving, the zero bin is twice as wide.

    Raises:
        ConfigError: stages that do not agree.
        MediaError: NaN in `forward`.
        FormatError: a code outside its codebook in `lookup`.
    """

    finest_limit: Tensor

    def __init__(self, config: ResidualFSQConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ResidualFSQConfig()
        if len(config.opened) != len(config.limits) or list(config.opened) != sorted(config.opened):
            raise ConfigError(f"opened {config.opened} and limits {config.limits} must agree and ascend")
        self.dim = config.opened[-1]
        self.depth = len(config.opened)
        self.finest_step = config.step / 2 ** (self.depth - 1)
        opens = [next(s for s, n in enumerate(config.opened) if c < n) for c in range(self.dim)]
        limits = [config.first_limit if c == 0 else config.limits[opens[c]] for c in range(self.dim)]
        self.opens, self.limits = tuple(opens), tuple(limits)
        finest_limit = [(m + 1) * 2 ** (self.depth - 1 - o) - 1 for m, o in zip(limits, opens, strict=True)]
        self.register_buffer("finest_limit", torch.tensor(finest_limit, dtype=torch.int64), persistent=False)
        self.groups = [self._group(stage) for stage in range(self.depth)]
        self.codebook_sizes = tuple(math.prod(radix) for stage in self.groups for _, radix in stage)
        counts = torch.tensor([len(stage) for stage in self.groups]).cumsum(0)
        self.stages = tuple(int(n) for n in counts)

    def step(self, stage: int) -> float:
        """The width of a bin at a stage, counted from 0."""
        return self.config.step / 2**stage

    def _group(self, stage: int) -> list[tuple[range, list[int]]]:
        """Channels that share a code at a stage, with the levels of each."""
        groups: list[tuple[range, list[int]]] = []
        start, radix = 0, []
        for channel in range(self.config.opened[stage]):
            levels = 2 * self.limits[channel] + 1 if self.opens[channel] == stage else 3
            if math.prod(radix) * levels > CODEBOOK_LIMIT:
                groups.append((range(start, channel), radix))
                start, radix = channel, []
            radix.append(levels)
        groups.append((range(start, self.config.opened[stage]), radix))
        return groups

    def finest(self, z: Float[Tensor, "*batch d"]) -> Int[Tensor, "*batch d"]:
        """Signed bins of the finest stage: sign(z) · floor(|z| / finest step), clamped."""
        refuse_nan(z)
        magnitude = (z.float().abs() / self.finest_step).floor().clamp(max=2**31).long()
        return torch.minimum(magnitude, self.finest_limit) * z.sign().long()

    def levels(self, bins: Int[Tensor, "*batch d"], stage: int) -> Int[Tensor, "*batch open"]:
        """The signed level that each open channel adds at a stage, from bins of the finest stage."""
        bins = bins[..., : self.config.opened[stage]]
        magnitude, sign = bins.abs(), bins.sign()
        now = magnitude >> (self.depth - 1 - stage)
        if stage == 0:
            return now * sign
        before = magnitude >> (self.depth - stage)
        refined = torch.where(before == 0, now, 2 * (now & 1) - 1)
        opens_now = torch.tensor(self.opens[: bins.shape[-1]], device=bins.device) == stage
        return torch.where(opens_now, now, refined) * sign

    def pack(self, levels: Int[Tensor, "*batch open"], stage: int) -> Int[Tensor, "*batch q"]:
        """Levels of a stage as its codes."""
        codes = []
        for channels, radix in self.groups[stage]:
            code = torch.zeros_like(levels[..., 0])
            for channel, size in zip(channels, radix, strict=True):
                code = code * size + levels[..., channel] + size // 2
            codes.append(code)
        return torch.stack(codes, -1)

    def unpack(self, codes: Int[Tensor, "*batch q"], stage: int) -> Int[Tensor, "*batch open"]:
        """Undo `pack`."""
        levels = codes.new_empty((*codes.shape[:-1], self.config.opened[stage]))
        for code, (channels, radix) in zip(codes.unbind(-1), self.groups[stage], strict=True):
            for channel, size in zip(reversed(channels), reversed(radix), strict=True):
                levels[..., channel] = code % size - size // 2
                code = torch.div(code, size, rounding_mode="floor")
        return levels

    def ids(self, z: Float[Tensor, "*batch d"]) -> Int[Tensor, "*batch q"]:
        """The codes of all stages."""
        bins = self.finest(z)
        return torch.cat([self.pack(self.levels(bins, s), s) for s in range(self.depth)], -1)

    def half_steps(self, ids: Int[Tensor, "*batch q"]) -> Int[Tensor, "*batch d"]:
        """Latents of the first stages' codes in halves of the finest step: exact integers."""
        depth = self.depth_of(ids.shape[-1])
        total = ids.new_zeros((*ids.shape[:-1], self.dim))
        for stage in range(depth):
            codes = ids[..., self.stages[stage - 1] if stage else 0 : self.stages[stage]]
            total = self.refine(total, self.unpack(codes, stage), stage)
        return total

    def refine(
        self, total: Int[Tensor, "*batch d"], levels: Int[Tensor, "*batch open"], stage: int
    ) -> Int[Tensor, "*batch d"]:
        """Add one stage's levels to latents in halves of the finest step."""
        count = levels.shape[-1]
        unit = 2 ** (self.depth - 1 - stage)
        before = total[..., :count]
        opens_now = torch.tensor(self.opens[:count], device=levels.device) == stage
        bigger = (2 * levels.abs() + 1) * levels.sign()
        grown = before + unit * torch.where((before == 0) | opens_now, bigger, levels)
        return torch.cat([grown, total[..., count:]], -1)

    def depth_of(self, codes: int) -> int:
        """How many stages so many codes hold.

        Raises:
            FormatError: a count that ends inside a stage.
        """
        if codes not in self.stages:
            raise FormatError(f"{codes} codes a token end inside a stage: choose one of {self.stages}")
        return self.stages.index(codes) + 1

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The latents of the first stages' codes."""
        self.depth_of(ids.shape[-1])
        sizes = torch.tensor(self.codebook_sizes[: ids.shape[-1]], device=ids.device)
        if ((ids < 0) | (ids >= sizes)).any():
            where = [int(i) for i in ((ids < 0) | (ids >= sizes)).nonzero()[0]]
            raise FormatError(f"id {int(ids[tuple(where)])} at {where} is outside its codebook")
        return self.half_steps(ids.int()) * (self.finest_step / 2)

    def hard(
        self, z: Float[Tensor, "*#batch d"], stage: Int[Tensor, "*#batch 1"]
    ) -> Float[Tensor, "*#batch d"]:
        """The latent after a stage (counted from 0), each sample at its own, with no gradient."""
        z = z.detach()
        step = self.config.step * torch.exp2(-stage.float())
        limit = (self.finest_limit >> (self.depth - 1 - stage)).to(z.dtype)
        magnitude = (z.abs() / step).floor().minimum(limit)
        opened = torch.tensor(self.opens, device=z.device) <= stage
        return torch.where((magnitude > 0) & opened, (magnitude + 0.5) * step * z.sign(), 0.0)

    def forward(self, z: Float[Tensor, "*batch d"]) -> Quantized:
        """All stages, with a straight-through gradient."""
        ids = self.ids(z)
        values = self.lookup(ids)
        return Quantized(
            values + (z - z.detach()), ids, z.new_zeros(()), codebook_stats(ids, self.codebook_sizes)
        )
