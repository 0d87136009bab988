"""Times of several calls that run by turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from smalti.evaluation.audit.cost import spread
from smalti.evaluation.profiling.contender import Call


@dataclass(frozen=True)
class Time:
    """Attributes:
    threads: that torch ran on.
    clock: "processor" time on one thread, "wall" time on more.
    seconds, low, high: median and quartiles.
    repeats: runs that counted.
    """

    threads: int
    clock: str
    seconds: float
    low: float
    high: float
    repeats: int


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run torch on so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock_of(threads: int) -> str:
    """Processor time leaves out what other programs take, but adds threads up: it is for one."""
    return "processor" if threads == 1 else "wall"


def seconds_of(call: Call, clock: str) -> float:
    """Seconds of one call."""
    now = time.process_time if clock == "processor" else time.perf_counter
    began = now()
    call()
    return now() - began


def race(calls: Mapping[str, Call], threads: int, repeats: int, cap: float) -> dict[str, Time]:
    """Times of calls that have run before.

    Args:
        calls: by name.
        threads: that torch runs on.
        repeats: turns at most.
        cap: seconds after which a call takes no further turn; it has one at least.
    """
    clock = clock_of(threads)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with on_threads(threads):
        for _ in range(repeats):
            for name, call in calls.items():
                if sum(taken[name]) < cap:
                    taken[name].append(seconds_of(call, clock))
    found = {}
    for name, times in taken.items():
        low, middle, high = spread(times)
        found[name] = Time(threads, clock, middle, low, high, len(times))
    return found
