"""`torch.cuda` while a GPU is simulated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from simulated_cuda import device
from simulated_cuda.device import CUDA, Gpu, OnDevice, OnFirst, gpu


class Stream:
    """All of them are one: operations are done in the order in which they are asked for."""

    def __init__(self, device: Any = None, **options: Any) -> None:
        self.device = CUDA

    def wait_stream(self, stream: Stream) -> None:
        pass

    def synchronize(self) -> None:
        gpu().finish()


class Event:
    time = 0.0

    def __init__(self, **options: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)

    def synchronize(self) -> None:
        gpu().finish()


class CUDAGraph:
    """What a capture recorded."""

    def __init__(self) -> None:
        self.operations: list[device.Operation] | None = None

    def replay(self) -> None:
        if self.operations is None:
            raise RuntimeError("a graph that was never captured")
        gpu().replays += 1
        for operation in self.operations:
            operation.replay()


@contextmanager
def graph(into: CUDAGraph, **options: Any) -> Iterator[None]:
    gpu().begin_capture()
    try:
        yield
    finally:
        into.operations = gpu().end_capture()


class Generator:
    """The GPU's, as far as a broken capture needs it."""

    def clone_state(self) -> Generator:
        return self

    def graphsafe_set_state(self, state: Generator) -> None:
        pass


def _set_random_state(state: torch.Tensor, device: Any = None) -> None:
    gpu().random_state = state.clone()


def _set_sync_debug_mode(mode: str | int) -> None:
    gpu().sync_debug_mode = {"default": 0, "warn": 1, "error": 2}.get(str(mode), mode)  # pyright: ignore


_PROPERTIES = SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=2**37)
_REPLACED: dict[str, Any] = {
    "is_available": lambda: True,
    "_lazy_init": lambda: None,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "device": lambda device: nullcontext(),
    "get_device_name": lambda device=None: "a simulated GPU",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: _PROPERTIES,
    "synchronize": lambda device=None: gpu().finish(),
    "current_stream": lambda device=None: Stream(),
    "Stream": Stream,
    "stream": lambda stream: nullcontext(),
    "Event": Event,
    "CUDAGraph": CUDAGraph,
    "graph": graph,
    "is_current_stream_capturing": lambda: gpu().is_capturing,
    "default_generators": (Generator(),),
    "get_rng_state": lambda device=None: gpu().random_state.clone(),
    "set_rng_state": _set_random_state,
    "get_sync_debug_mode": lambda: gpu().sync_debug_mode,
    "set_sync_debug_mode": _set_sync_debug_mode,
    "manual_seed_all": lambda seed: _set_random_state(torch.Generator().manual_seed(seed).get_state()),
    "reset_peak_memory_stats": lambda device=None: None,
    "max_memory_allocated": lambda device=None: 0,
    "empty_cache": lambda: None,
}


@contextmanager
def simulated() -> Iterator[Gpu]:
    """Within, torch has one GPU, `cuda:0`, that is simulated."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with mock.patch.multiple(torch.cuda, **_REPLACED):
        device.use(Gpu())
        torch.__future__.set_swap_module_params_on_conversion(True)  # parameters become tensors of another class
        try:
            with OnFirst(), OnDevice():
                yield gpu()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
            device.use(None)
