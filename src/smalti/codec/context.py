"""An entropy coder that predicts every level from what is decoded already, in integers alone.

```
frame i at stage s, where decoded, else at s-1 ─┐ 3×3
                                                ├──► sums ─► network ─► centre, scale of each level's density
frame i-1 at stage s ───────────────────────────┘ 3×3         (8-bit weights)          │
bins of the level (where the latent can lie) ──► table of the distribution ◄───────────┘
                                                      └──► frequencies of 2^24 ──► range coder
```
A stage is coded in passes: some channels at one colour of a checkerboard. Weights, activations and tables are
integers, and sums stay under 2^24, so float32 products hold them exactly: every machine, thread count and
instruction set finds the same frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import constriction
import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int64

from smalti.codec.coders import PRECISION, stage_codes
from smalti.codec.passes import channel_groups, checkerboard, coding_passes
from smalti.codec.stage_network import (
    ENTER_SHIFT,
    FARTHEST,
    FOLLOW_SHIFT,
    FRACTION,
    HIDDEN_LIMIT,
    INPUT_LIMIT,
    LEAVE_SHIFT,
    MIDDLE_SHIFT,
    SIGNED,
    StageNetwork,
    convolved,
    input_rows,
)
from smalti.errors import ConfigError, FormatError
from smalti.quantizers.residual_fsq import ResidualFSQ

__all__ = [
    "ENTER_SHIFT",
    "FARTHEST",
    "FOLLOW_SHIFT",
    "FRACTION",
    "HIDDEN_LIMIT",
    "INPUT_LIMIT",
    "KINDS",
    "LEAVE_SHIFT",
    "MIDDLE_SHIFT",
    "POSITIONS",
    "PRECISION",
    "SCALES",
    "SIGNED",
    "ContextCoder",
    "StageNetwork",
    "array_shapes",
    "channel_groups",
    "checkerboard",
    "coding_passes",
]

POSITIONS, SCALES = 1024, 64
KINDS = ("picture", "start", "next")  # a picture; a clip's grid with none before it; one with


# (rows of frequencies [n, k], levels counted from 0 or None) → levels counted from 0
Exchange = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
_FAMILY = constriction.stream.model.Categorical(perfect=False)


class ContextCoder:
    """Entropy coder of `ResidualFSQ` codes with a learned context model.

    A chunk is coded by itself. Within a stage frames follow in order, so a frame may use the one before at
    the same stage and itself at the stage before; a prefix of stages decodes alone.

    Args:
        quantizer: whose codes are coded.
        arrays: whole numbers by name, see `array_shapes`: the networks' weights, `tails` (mass beyond a
            position, in 2^-24), `compand` (network input for a magnitude in half steps) and `still` (the
            picture's channel that a clip's channel continues, or -1).

    Raises:
        ConfigError: weights too large for exact sums.
    """

    name = "context-1"

    def __init__(self, quantizer: ResidualFSQ, arrays: Mapping[str, np.ndarray]) -> None:
        self.quantizer = quantizer
        tails = arrays["tails"].astype(np.float64)  # whole numbers, which float64 holds and divides exactly
        self.below = np.concatenate([tails[:, :0:-1], (1 << PRECISION) - tails], 1)
        self.compand = arrays["compand"].astype(np.float32)
        self.still = arrays["still"].astype(np.int64)
        if self.compand.max() > INPUT_LIMIT:
            raise ConfigError(f"inputs of the context model reach {self.compand.max()}, not {INPUT_LIMIT}")
        fields = StageNetwork.__dataclass_fields__
        self.networks = {
            (kind, stage): StageNetwork(
                **{field: arrays[f"{kind}_{stage}_{field}"].astype(np.float32) for field in fields}
            )
            for kind in KINDS
            for stage in range(quantizer.depth)
        }

    def encode(self, ids: Int64[np.ndarray, "t h w q"], stages: tuple[int, ...]) -> list[bytes]:
        """One byte string a stage; the first begins with the kind of the first frame."""
        kind = min((0, 1), key=lambda kind: sum(map(len, self._encode(ids[:1], 1, kind))))
        streams = self._encode(ids, len(stages), kind)
        return [bytes([kind]) + streams[0], *streams[1:]]

    def _encode(self, ids: Int64[np.ndarray, "t h w q"], depth: int, kind: int) -> list[bytes]:
        streams, bounds = [], (0, *self.quantizer.stages)
        latents = np.zeros((*ids.shape[:3], self.quantizer.dim), np.int32)
        for stage in range(depth):
            codes = torch.from_numpy(ids[..., bounds[stage] : bounds[stage + 1]].astype(np.int32))
            encoder = constriction.stream.queue.RangeEncoder()

            def exchange(rows: np.ndarray, levels: np.ndarray | None, encoder=encoder) -> np.ndarray:
                assert levels is not None
                encoder.encode(levels, _FAMILY, rows)
                return levels

            self._stage(latents, stage, kind, exchange, self.quantizer.unpack(codes, stage).numpy())
            streams.append(encoder.get_compressed().astype("<u4").tobytes())
        return streams

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], stages: tuple[int, ...]
    ) -> Int64[np.ndarray, "t h w q"]:
        """The ids of the first stages.

        Raises:
            FormatError: byte strings that this coder did not write.
        """
        if not streams or not streams[0] or streams[0][0] > 1:
            raise FormatError("a context-coded chunk begins with the kind of its first frame, 0 or 1")
        if len(streams) != len(stages):
            raise FormatError(f"{len(stages)} stages take as many byte strings, found {len(streams)}")
        kind, bodies = streams[0][0], [streams[0][1:], *streams[1:]]
        latents = np.zeros((*shape, self.quantizer.dim), np.int32)
        ids = np.empty((*shape, stages[-1]), np.int64)
        for stage, codes in enumerate(stage_codes(stages)):
            if len(bodies[stage]) % 4:
                raise FormatError(f"range coder's words take 4 bytes each, found {len(bodies[stage])} bytes")
            words = np.frombuffer(bodies[stage], "<u4").astype(np.uint32)
            decoder = constriction.stream.queue.RangeDecoder(words)

            def exchange(rows: np.ndarray, levels: np.ndarray | None, decoder=decoder) -> np.ndarray:
                try:
                    return decoder.decode(_FAMILY, rows)
                except (AssertionError, ValueError) as error:  # what constriction raises for foreign words
                    raise FormatError(f"range coder's words do not decode: {error}") from error

            levels = self._stage(latents, stage, kind, exchange)
            if not decoder.maybe_exhausted():
                raise FormatError("range coder's words go on after the last code")
            ids[..., codes.start : codes.stop] = self.quantizer.pack(torch.from_numpy(levels), stage).numpy()
        return ids

    def _stage(
        self,
        latents: Int[np.ndarray, "t h w d"],
        stage: int,
        kind: int,
        exchange: Exchange,
        known: Int[np.ndarray, "t h w c"] | None = None,
    ) -> Int[np.ndarray, "t h w c"]:
        """Exchange one stage's levels with a coder, frame by frame, and refine `latents` in place."""
        count = self.quantizer.config.opened[stage]
        unit = 2 ** (self.quantizer.depth - 1 - stage)
        levels = np.zeros((*latents.shape[:3], count), np.int32)
        for i in range(len(latents)):
            network = self.networks[KINDS[2 if i else kind], stage]
            sums = convolved(self._inputs(latents[i, ..., :count], unit, range(count)), network.here)
            past = latents[i]
            if i:
                past = self._past(latents[i - 1], from_picture=i == 1 and kind == 0)
                sums = sums + convolved(self._inputs(past[..., :count], unit, range(count)), network.before)
            for number, (channels, colour) in enumerate(coding_passes(count)):
                place = (*checkerboard(*latents.shape[1:3])[colour], slice(channels.start, channels.stop))
                before = latents[i][place]
                centre, scale = network.predict(sums[place[:2]], number, channels)
                if i:
                    distance = np.clip((past[place] - before) // unit, -FARTHEST, FARTHEST)
                    size = self.compand[np.abs(distance)].astype(np.int64)
                    moved, grown = network.followed(distance, size, channels)
                    centre, scale = centre + moved, scale + grown
                scale = np.clip(scale, 0, SCALES - 1)
                wanted = None if known is None else known[i][place]
                found = self._exchange(before, centre, scale, stage, channels, exchange, wanted)
                levels[i][place] = found
                after = self._refined(before, found, stage, channels)
                latents[i][place] = after
                change = self._inputs(after, unit, channels) - self._inputs(before, unit, channels)
                maps = np.zeros((*latents.shape[1:3], change.shape[-1]), np.float32)
                maps[place[:2]] = change
                sums += convolved(maps, network.here[input_rows(channels, count)])
        return levels

    def _inputs(
        self, latents: Int[np.ndarray, "*n c"], unit: int, channels: range
    ) -> Float32[np.ndarray, "*n i"]:
        """Latents as the network reads them: companded half steps of the stage, and some with their sign."""
        magnitude = self.compand[np.minimum(np.abs(latents) // unit, len(self.compand) - 1)]
        some = slice(max(0, SIGNED - channels.start))
        signed = magnitude[..., some] * np.sign(latents[..., some]).astype(np.float32)
        return np.concatenate([magnitude, signed], -1)

    def _past(self, latents: Int[np.ndarray, "h w d"], from_picture: bool) -> Int[np.ndarray, "h w d"]:
        """The frame before in a clip's channels: four equal frames hold twice a picture's latents."""
        if not from_picture:
            return latents
        return np.where(self.still >= 0, 2 * latents[..., np.maximum(self.still, 0)], 0)

    def _refined(
        self, latents: Int[np.ndarray, "n c"], levels: Int[np.ndarray, "n c"], stage: int, channels: range
    ) -> Int[np.ndarray, "n c"]:
        unit = 2 ** (self.quantizer.depth - 1 - stage)
        opens_now = np.array(self.quantizer.opens)[channels.start : channels.stop] == stage
        bigger = (2 * np.abs(levels) + 1) * np.sign(levels)
        return latents + unit * np.where((latents == 0) | opens_now, bigger, levels)

    def _exchange(
        self,
        latents: Int[np.ndarray, "n c"],
        centre: Int[np.ndarray, "n c"],
        scale: Int[np.ndarray, "n c"],
        stage: int,
        channels: range,
        exchange: Exchange,
        known: Int[np.ndarray, "n c"] | None,
    ) -> Int[np.ndarray, "n c"]:
        """Levels of one pass: those of channels that open here, then those that are refined."""
        found = np.zeros(latents.shape, np.int64)
        quantizer = self.quantizer
        limits = np.array([quantizer.limits[c] if quantizer.opens[c] == stage else 0 for c in channels])
        for limit in sorted(set(limits.tolist()), reverse=True):
            some = limits == limit
            rows = self._frequencies(latents[:, some], centre[:, some], scale[:, some], limit)
            middle = limit or 1
            wanted = None if known is None else (known[:, some].ravel() + middle).astype(np.int32)
            found[:, some] = exchange(rows, wanted).reshape(-1, some.sum()) - middle
        return found

    def _frequencies(
        self,
        latents: Int[np.ndarray, "n c"],
        centre: Int[np.ndarray, "n c"],
        scale: Int[np.ndarray, "n c"],
        limit: int,
    ) -> Float64[np.ndarray, "nc k"]:
        """Frequencies of k levels: whole numbers that sum to 2^24 - k, which constriction keeps exactly."""
        latents, centre, scale = latents.ravel(), centre.ravel(), scale.ravel()
        if limit:  # the channel opens: bins of two half steps, the middle one of four, no bounds outside
            edges = 2 * FRACTION * np.r_[-POSITIONS, -limit:0, 1 : limit + 1, POSITIONS][:, None]
        else:  # the zero bin splits in three, another in two halves
            inner = np.where(latents == 0, 2, 0)
            edges = FRACTION * np.stack([-2 - inner, -inner, inner, 2 + inner])
        mass = np.maximum(np.diff(self._below(edges - centre, scale), axis=0), 0)
        mass[:, mass.sum(0) == 0] = 1
        free = (1 << PRECISION) - len(mass)
        shares = np.floor(mass * free / mass.sum(0))  # exact: whole numbers under 2^48
        shares[shares.argmax(0), np.arange(shares.shape[1])] += free - shares.sum(0)
        return np.ascontiguousarray(shares.T)

    def _below(self, positions: Int[np.ndarray, "k n"], scale: Int[np.ndarray, "n"]) -> np.ndarray:
        """Mass of the distribution below positions, in 2^-24."""
        middle = POSITIONS - 1
        return self.below.take(scale * (2 * middle + 1) + np.clip(positions, -middle, middle) + middle)


def array_shapes(quantizer: ResidualFSQ, hidden: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every array that `ContextCoder` asks for."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "tails": ((SCALES, POSITIONS), torch.int32),
        "compand": ((POSITIONS,), torch.uint8),
        "still": ((quantizer.dim,), torch.int32),
    }
    for kind in KINDS:
        for stage, count in enumerate(quantizer.config.opened):
            fields = {
                "here": ((count + min(count, SIGNED), 9 * hidden), torch.int8),
                "before": ((count + min(count, SIGNED), 9 * hidden), torch.int8),
                "passes": ((len(coding_passes(count)), hidden), torch.int32),
                "middle": ((hidden, hidden), torch.int8),
                "middle_bias": ((hidden,), torch.int32),
                "leave": ((hidden, 2 * count), torch.int8),
                "leave_bias": ((2 * count,), torch.int32),
                "follow": ((2, count), torch.int8),
            }
            shapes |= {f"{kind}_{stage}_{name}": shape for name, shape in fields.items()}
    return shapes
