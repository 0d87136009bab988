"""Train the context model of a frozen tokenizer: floats that behave as the coder's integers will.

```
latents of crops, in half steps ──► inputs ──► ContextNetwork (weights, activations rounded) ──► bits
                                                     └──► integers() ──► arrays of codec.context.ContextCoder
```
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codec.context import (
    ENTER_SHIFT,
    FARTHEST,
    FOLLOW_SHIFT,
    FRACTION,
    HIDDEN_LIMIT,
    INPUT_LIMIT,
    KINDS,
    LEAVE_SHIFT,
    MIDDLE_SHIFT,
    POSITIONS,
    PRECISION,
    SCALES,
    SIGNED,
    coding_passes,
)
from smalti.quantizers.residual_fsq import ResidualFSQ
from smalti.tokenizers.mosaic import Mosaic
from smalti.training.objectives.base import Loss, Objective

SMALLEST_SCALE, SCALES_AN_OCTAVE = 1 / 16, 5  # of the distributions, in half steps


def scale_table() -> Float[Tensor, "s"]:
    """Scale of every row of the distribution's table, in half steps."""
    return SMALLEST_SCALE * torch.exp2(torch.arange(SCALES, dtype=torch.float64) / SCALES_AN_OCTAVE)


def tails() -> np.ndarray:
    """Mass of a Laplace distribution beyond every position, in 2^-24; nothing beyond the last."""
    positions = torch.arange(POSITIONS, dtype=torch.float64) / FRACTION
    mass = 0.5 * torch.exp(-positions / scale_table()[:, None])
    mass[:, -1] = 0
    return (mass * 2**PRECISION).round().to(torch.int32).numpy()


def compand_table(size: int = POSITIONS) -> np.ndarray:
    """Network input for a magnitude in half steps: as it is up to 8, then four an octave."""
    magnitude = torch.arange(size, dtype=torch.float64)
    coarse = 8 + (4 * (magnitude.clamp(min=8) / 8).log2() + 1e-9).floor()
    return torch.where(magnitude <= 8, magnitude, coarse).clamp(max=INPUT_LIMIT).to(torch.uint8).numpy()


FOLLOW_GAIN = 8


def _rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _weights(x: Tensor, shift: int) -> Tensor:
    """Rounded to 8 bits in 2^-shift, with a straight-through gradient."""
    return _rounded(x.clamp(-127 / 2**shift, 127 / 2**shift) * 2**shift) / 2**shift


class ContextNetwork(nn.Module):
    """The float twin of `codec.context.StageNetwork`.

    Args:
        count: open channels.
        hidden: width.
    """

    def __init__(self, count: int, hidden: int = 64) -> None:
        super().__init__()
        self.count = count
        inputs = count + min(count, SIGNED)
        self.here = nn.Parameter(torch.randn(hidden, inputs, 3, 3) * 0.02)
        self.before = nn.Parameter(torch.randn(hidden, inputs, 3, 3) * 0.02)
        self.passes = nn.Parameter(torch.full((len(coding_passes(count)), hidden), 2.0))
        self.middle = nn.Parameter(torch.randn(hidden, hidden) * 0.1)
        self.middle_bias = nn.Parameter(torch.full((hidden,), 2.0))
        self.leave = nn.Parameter(torch.randn(hidden, 2 * count) * 0.02)
        self.leave_bias = nn.Parameter(torch.cat([torch.zeros(count), torch.full((count,), 20.0)]))
        self.follow = nn.Parameter(torch.zeros(2, count))

    def forward(
        self, here: Float[Tensor, "b i h w"], before: Float[Tensor, "b i h w"], number: int
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Centres (positions) and scales (rows of the table) of all open channels."""
        weights = _weights(torch.cat([self.here, self.before], 1), ENTER_SHIFT)
        sums = F.conv2d(torch.cat([here, before], 1), weights, padding=1)
        hidden = _rounded(sums + self.passes[number, :, None, None]).clamp(0, HIDDEN_LIMIT).movedim(1, -1)
        hidden = _rounded(hidden @ _weights(self.middle, MIDDLE_SHIFT) + self.middle_bias)
        hidden = hidden.clamp(0, HIDDEN_LIMIT)
        out = (hidden @ _weights(self.leave, LEAVE_SHIFT) + self.leave_bias).movedim(-1, 1)
        centre, scale = out.split(self.count, 1)
        return centre, scale

    def followed(self) -> Float[Tensor, "2 c"]:
        """How centres and scales follow the frame before; parameters are small so that they learn fast."""
        return _weights(FOLLOW_GAIN * self.follow, FOLLOW_SHIFT)

    def integers(self) -> dict[str, np.ndarray]:
        """The arrays of the coder's `StageNetwork`."""

        def weights(x: Tensor, shift: int) -> np.ndarray:
            return (_weights(x.detach(), shift) * 2**shift).round().to(torch.int8).numpy()

        def bias(x: Tensor, shift: int) -> np.ndarray:
            return (x.detach() * 2**shift).round().to(torch.int32).numpy()

        def window(x: Tensor) -> np.ndarray:
            return weights(x.permute(1, 2, 3, 0).flatten(1), ENTER_SHIFT)  # [inputs, 9 · hidden]

        return {
            "here": window(self.here),
            "before": window(self.before),
            "passes": bias(self.passes, ENTER_SHIFT),
            "middle": weights(self.middle, MIDDLE_SHIFT),
            "middle_bias": bias(self.middle_bias, MIDDLE_SHIFT),
            "leave": weights(self.leave, LEAVE_SHIFT),
            "leave_bias": bias(self.leave_bias, LEAVE_SHIFT),
            "follow": weights(FOLLOW_GAIN * self.follow, FOLLOW_SHIFT),
        }


class ContextObjective(Objective):
    """Bits of a stage's levels in every kind of frame; `networks[kind][stage]`."""

    def __init__(self, quantizer: ResidualFSQ, hidden: int = 64) -> None:
        super().__init__()
        self.quantizer = quantizer
        opened = quantizer.config.opened
        self.networks = nn.ModuleDict(
            {kind: nn.ModuleList(ContextNetwork(count, hidden) for count in opened) for kind in KINDS}
        )
        self.register_buffer("compand", torch.from_numpy(compand_table()).float(), persistent=False)
        self.register_buffer("scales", scale_table().float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Bits a token of one stage in one kind of frame, see `ContextSamples.batch`."""
        kind, stage = KINDS[int(batch["kind"])], int(batch["stage"])
        numbers = range(len(coding_passes(self.quantizer.config.opened[stage])))
        frames = (batch["old"], batch["new"], batch["past"])
        bits = torch.stack([self.bits(kind, stage, number, *frames) for number in numbers]).sum() / 2
        return Loss(bits, {f"{kind}@{stage + 1}": bits.detach()})

    def inputs(self, latents: Int[Tensor, "b h w d"], stage: int) -> Float[Tensor, "b i h w"]:
        """Latents in half steps of the finest stage as the network reads them at a stage."""
        count, unit = self.quantizer.config.opened[stage], 2 ** (self.quantizer.depth - 1 - stage)
        latents = latents[..., :count].movedim(-1, 1)
        magnitude = self.compand[(latents.abs() // unit).clamp(max=len(self.compand) - 1)]
        return torch.cat([magnitude, magnitude[:, :SIGNED] * latents[:, :SIGNED].sign()], 1)

    def bits(
        self,
        kind: str,
        stage: int,
        number: int,
        old: Int[Tensor, "b h w d"],
        new: Int[Tensor, "b h w d"],
        past: Int[Tensor, "b h w d"],
    ) -> Float[Tensor, ""]:
        """Bits a position of one pass: `old` is the frame after stage - 1, `new` after the stage."""
        quantizer = self.quantizer
        count, unit = quantizer.config.opened[stage], 2 ** (quantizer.depth - 1 - stage)
        passes = coding_passes(count)
        channels, colour = passes[number]
        axes = (torch.arange(n, device=old.device) for n in old.shape[1:3])
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        board = ((rows + columns) % 2)[None, :, :, None]
        decoded = torch.zeros(1, *old.shape[1:3], count, dtype=torch.bool, device=old.device)
        for earlier, shade in passes[:number]:
            decoded[..., earlier.start : earlier.stop] |= board == shade
        known = torch.where(decoded, new[..., :count], old[..., :count])
        centre, scale = self.networks[kind][stage](
            self.inputs(known, stage), self.inputs(past, stage), number
        )
        part = slice(channels.start, channels.stop)
        place = (board == colour)[..., 0].expand(len(old), -1, -1)
        centre, scale = (x[:, part].movedim(1, -1)[place] for x in (centre, scale))
        before, after, ago = (x[..., part][place].float() / unit for x in (old, new, past))
        if kind == "next":
            distance = (ago - before).clamp(-FARTHEST, FARTHEST)
            move, grow = self.networks[kind][stage].followed()[:, part]
            centre = centre + FRACTION * move * distance
            scale = scale + grow * self.compand[distance.abs().long()]
        scale = scale.clamp(0, SCALES - 1)
        low, high, least, most = self._bins(before, after, stage, channels)
        spread = SMALLEST_SCALE * torch.exp2(scale / SCALES_AN_OCTAVE)
        shift = centre / FRACTION
        mass = self._mass(low - shift, high - shift, spread)
        whole = self._mass(least - shift, most - shift, spread)
        return -((mass + 1e-7) / (whole + 3e-7)).log2().sum() / place.sum()

    def _bins(
        self, before: Tensor, after: Tensor, stage: int, channels: range
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bounds of the levels' bins and of what was possible, in half steps from the last bin's middle."""
        quantizer = self.quantizer
        opens = torch.tensor([quantizer.opens[c] == stage for c in channels], device=before.device)
        limits = torch.tensor([quantizer.limits[c] for c in channels], device=before.device)
        far = before.new_tensor(POSITIONS)
        half = torch.where(before == 0, 4.0, 2.0)
        least, most = torch.where(opens, -far, -half), torch.where(opens, far, half)
        moved = after - before
        beyond = opens & (moved.abs() == 2 * limits + 1)
        inner = torch.where(moved == 0, -2.0, moved.abs() - 1)
        outer = torch.where(moved == 0, 2.0, torch.where(beyond, far, moved.abs() + 1))
        return torch.where(moved < 0, -outer, inner), torch.where(moved < 0, -inner, outer), least, most

    @staticmethod
    def _mass(low: Tensor, high: Tensor, spread: Tensor) -> Tensor:
        def below(x: Tensor) -> Tensor:
            tail = 0.5 * torch.exp(-x.abs() / spread)
            return torch.where(x < 0, tail, 1 - tail)

        return (below(high) - below(low)).clamp(min=0)

    def arrays(self, still: Tensor) -> dict[str, np.ndarray]:
        """Everything that `ContextCoder` needs."""
        arrays = {"tails": tails(), "compand": compand_table(), "still": still.numpy().astype(np.int32)}
        for kind, networks in self.networks.items():
            for stage, network in enumerate(networks):
                arrays |= {f"{kind}_{stage}_{name}": array for name, array in network.integers().items()}
        return arrays

    def finish(self, system: Mosaic) -> None:
        """Hand the arrays over to the tokenizer."""
        system.set_context(self.arrays(system.still))
