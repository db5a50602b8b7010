"""Turns: contestants are timed one after the other in every round, so that a slow moment meets all of them alike."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy
import torch

# Seconds of a turn of `short_turns`. ONNX Runtime's threads spin for a millisecond or two after a call.
_PAUSE, _WARM_UP, _TURN = 0.02, 0.01, 0.04


class Spread(NamedTuple):
    """Median, 10th and 90th percentile."""

    median: float
    p10: float
    p90: float


def spread(values: list[float]) -> Spread:
    p10, median, p90 = (float(value) for value in numpy.percentile(values, (10, 50, 90)))
    return Spread(median, p10, p90)


class Budget(NamedTuple):
    """How many rounds: `most`, fewer where one more would exceed `seconds`, but `least`.

    A call of `long_call` seconds or more is not repeated to be timed warm.
    """

    most: int
    least: int = 1
    seconds: float = math.inf
    long_call: float = math.inf


def take_turns(contestants: Mapping[str, Callable[[], object]], budget: Budget) -> dict[str, list[float]]:
    """Seconds of each contestant's calls, one timed call a round; the call before it only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.perf_counter()
    for done in range(budget.most):
        if done >= budget.least and (time.perf_counter() - start) * (done + 1) / done > budget.seconds:
            break
        for name, call in contestants.items():
            taken = _seconds(call)
            seconds[name].append(taken if taken >= budget.long_call else _seconds(call))
    return seconds


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """Runs torch, and adder2d with it, on so many threads, and on as many as before after.

    None: as many as torch has; 0: as many as there are cores for this process.
    """
    before = torch.get_num_threads()
    wanted = before if threads is None else threads or _cores()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def short_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call of each contestant, for each round the median of several: for calls of milliseconds.

    A contestant's turn begins with a pause, in which the threads of the one before stop to spin, and some calls that
    only warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(_PAUSE)
            start = time.perf_counter()
            while time.perf_counter() - start < _WARM_UP:
                call()
            times: list[float] = []
            total = 0.0
            while total < _TURN or len(times) < 3:
                times.append(_seconds(call))
                total += times[-1]
            seconds[name].append(spread(times).median)
    return seconds
