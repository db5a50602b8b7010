"""Turns: contestants are timed one after the other in every round, so that a slow moment meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy
import torch


class Spread(NamedTuple):
    """Median, 10th and 90th percentile."""

    median: float
    p10: float
    p90: float


def spread(values: list[float]) -> Spread:
    p10, median, p90 = (float(value) for value in numpy.percentile(values, (10, 50, 90)))
    return Spread(median, p10, p90)


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant's calls, one timed call a round; the call before it only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """Runs torch, and adder2d with it, on so many threads (None: as many as it has), and on as many as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)
