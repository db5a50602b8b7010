"""Time on a device: events on a GPU, so that what is asynchronous is waited for; the wall clock on a CPU."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping

import torch

_WARM_UP = 3


def milliseconds(calls: Mapping[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, float]:
    """Median time of each call. They take turns, for about `seconds` in all, 5 to 100 rounds."""
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.monotonic()
    while len(rounds := next(iter(taken.values()))) < 5 or (time.monotonic() - begin < seconds and len(rounds) < 100):
        for name, call in calls.items():
            taken[name].append(_once(call, device))
    return {name: statistics.median(values) for name, values in taken.items()}


def _once(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def is_lost(device: torch.device) -> bool:
    """Whether an error of CUDA, as of an address that is none, has spoilt all that this process asks of the GPU."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def operations_limit(device: torch.device) -> float | None:
    """Adder operations a second that a GPU could do: 128 lanes of each multiprocessor at the highest clock, two
    instructions each. None where that is not known."""
    if device.type != "cuda":
        return None
    # 128 float32 lanes: compute capability 8.6, 8.9, 9.0 and later; 64 on 7.x and 8.0
    lanes = 64 if torch.cuda.get_device_capability(device) <= (8, 0) else 128
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        clock = 1e6 * float(done.stdout.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return torch.cuda.get_device_properties(device).multi_processor_count * lanes * clock / 2
