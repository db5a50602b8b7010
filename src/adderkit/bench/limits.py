"""What the machine does at most: its vector pipes, by an in-process test in registers, and its memory."""

from __future__ import annotations

import ctypes
import time
from typing import NamedTuple

import torch

from adderkit import native
from adderkit.bench.config import MOST_THREADS

KINDS = ("multiply_add", "adder", "adder_input_gradient")
"""The operations in the order of `adderkit_peak_kind`: one of a convolution, of an adder layer, of its gradient."""

_COPIED_BYTES = 256 * 1024 * 1024  # eight times a 32 MiB last-level cache
_COPIES = 7


class Limits(NamedTuple):
    """Operations a second of all threads together by kind, and bytes a second that a copy reads and writes."""

    multiply_add: float
    adder: float
    adder_input_gradient: float
    bytes_per_s: float


def measure_limits(threads: int) -> Limits | None:
    """Measures all of them on the active instruction set, in about half a second; None without a native library."""
    if native.library() is None:
        return None
    return Limits(*(peak(kind, threads) for kind in KINDS), bytes_per_s=copy_speed())


def faster(a: Limits | None, b: Limits | None) -> Limits | None:
    """The higher of each: what a processor does depends on its clock, and on other work, at that moment."""
    return Limits(*map(max, a, b)) if a is not None and b is not None else None


def peak(kind: str, threads: int) -> float:
    """Operations a second of one of `KINDS` on so many threads (0: all cores), in registers alone.

    Raises:
        ValueError: where `kind` or `threads` is none, or `ADDERKIT_ISA` names a path that can't run here.
        RuntimeError: where there is no native library.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(KINDS)}")
    if not 0 <= threads <= MOST_THREADS:  # ctypes would cut it to 32 bits
        raise ValueError(f"`threads` (={threads}) must be from 0 to {MOST_THREADS}")
    library = native.library()
    if library is None:
        raise RuntimeError(native.reason())
    library.adderkit_peak.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_double)]
    found = ctypes.c_double()
    native.check(library.adderkit_peak(KINDS.index(kind), threads, ctypes.byref(found)))
    return found.value


def copy_speed() -> float:
    """Bytes a second, read and written together, of torch's copy of 256 MiB on torch's threads; the best of seven."""
    source = torch.ones(_COPIED_BYTES // 4)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(_COPIES):
        start = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * _COPIED_BYTES / (time.perf_counter() - start))
    return best
