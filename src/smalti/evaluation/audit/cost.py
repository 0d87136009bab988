"""What a model costs: time in pairs, share of it that goes to scoring, memory, and where fewer tokens pay.

Time is wall time on as many threads as torch has. The full and the reduced model run by turns, so that a
machine that slows down slows both.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smalti.reducers.hosts.handle import Handle

Call = Callable[[], Any]


@dataclass(frozen=True)
class Speed:
    """Time for one batch.

    Attributes:
        batch: pictures.
        seconds, low, high: median and quartiles of the wall time.
        full_seconds: median of the full model in the same minutes.
        speedup: full over reduced.
        share: of the bound: the speed-up over that of the arithmetic.
        scoring: share of the time that goes to choosing and moving tokens.
    """

    batch: int
    seconds: float
    low: float
    high: float
    full_seconds: float
    speedup: float
    share: float
    scoring: float


def race(
    full: Call, reduced: Call, device: torch.device, repeats: int, warmup: int
) -> tuple[list[float], ...]:
    """Seconds of two calls that run by turns, after some runs that do not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(warmup + repeats):
        for call, kept in zip((full, reduced), times, strict=True):
            seconds = _seconds(call, device)
            if turn >= warmup:
                kept.append(seconds)
    return times


def speed(
    full: nn.Module, handle: Handle, x: Tensor, bound: float, repeats: int = 10, warmup: int = 2
) -> Speed:
    """The reduced model's time for a batch beside the full one's.

    Args:
        full: another copy of the model, not reduced.
        handle: of the reduced one.
        x: the batch.
        bound: speed-up of the arithmetic.
        repeats: runs that count.
        warmup: runs before that do not.
    """
    model = handle.host.model
    before, after = race(lambda: full(x), lambda: model(x), x.device, repeats, warmup)
    low, middle, high = spread(after)
    speedup = median(before) / middle
    share = scoring(handle, x, max(repeats // 2, 1))
    return Speed(len(x), middle, low, high, median(before), speedup, speedup / bound, share)


def full_speed(model: nn.Module, x: Tensor, repeats: int = 10, warmup: int = 2) -> Speed:
    """The full model's own time."""
    times, _ = race(lambda: model(x), lambda: None, x.device, repeats, warmup)
    low, middle, high = spread(times)
    return Speed(len(x), middle, low, high, middle, 1.0, 1.0, 0.0)


def spread(times: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(times) < 2:
        return times[0], times[0], times[0]
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return low, middle, high


def scoring(handle: Handle, x: Tensor, repeats: int) -> float:
    """Share of the time that is spent between blocks: criterion, strategy, moving tokens."""
    spent: list[float] = []
    step = handle.step

    def timed(*given: Any) -> Tensor:
        _wait(x.device)
        began = time.perf_counter()
        result = step(*given)
        _wait(x.device)
        spent.append(time.perf_counter() - began)
        return result

    vars(handle)["step"] = timed
    try:
        whole = sum(_seconds(lambda: handle.host.model(x), x.device) for _ in range(repeats))
    finally:
        del vars(handle)["step"]
    return sum(spent) / whole


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that were made inside and not yet freed; `peak` is the most at once.

    What an operator needs within itself is not seen, nor are weights and inputs, which were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._storage(x)._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                storage = self._storage(made)
                if storage._cdata not in given | self._known:
                    self._add(storage)
        return result

    @staticmethod
    def _storage(x: Tensor) -> torch.UntypedStorage:
        return x.untyped_storage()

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def peak_memory(call: Call, device: torch.device) -> int:
    """Most bytes of activations at once: by CUDA's own count there, else of living tensors."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveTensors() as living:
        call()
    return living.peak


def break_even(counts: Sequence[int], full: Sequence[float], reduced: Sequence[float]) -> float:
    """Tokens from which on the reduced model is the faster one, between two measured counts linearly in logs.

    The smallest count measured if it wins everywhere; infinity if it loses at the largest.
    """
    gains = [math.log(one / other) for one, other in zip(full, reduced, strict=True)]
    if gains[-1] <= 0:
        return math.inf
    last = max((place for place, gain in enumerate(gains) if gain <= 0), default=None)
    if last is None:
        return float(counts[0])
    share = -gains[last] / (gains[last + 1] - gains[last])
    low, high = math.log(counts[last]), math.log(counts[last + 1])
    return math.exp(low + share * (high - low))


def _seconds(call: Call, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
