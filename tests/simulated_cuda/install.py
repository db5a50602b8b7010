"""`torch.cuda` while a GPU is simulated."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from simulated_cuda.capture import Operation
from simulated_cuda.device import Gpu
from simulated_cuda.tensor import CUDA, CudaIsFirst, OnDevice, gpu, use


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
        self.operations: list[Operation] | None = None

    def replay(self) -> None:
        if self.operations is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        gpu().replays += 1
        for operation in self.operations:
            operation.replay()

    def pool(self) -> None:
        if self.operations is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")


class Torch:
    """What torch itself keeps for a GPU: the current stream, and graphs whose capture broke off."""

    def __init__(self) -> None:
        self.default = self.current = Stream()
        self._broken: list[weakref.ref[CUDAGraph]] = []

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        if gpu().is_capturing and stream is not self.current:
            raise RuntimeError("work on another stream is not simulated in a capture")
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, into: CUDAGraph, pool: Any = None, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """`stream` and `capture_error_mode` are asked for, as the project always means its own."""
        if capture_error_mode != "thread_local":
            raise AssertionError(f"a capture that breaks when another thread pins memory: {capture_error_mode}")
        if any(graph() is None for graph in self._broken):
            raise AssertionError("torch's allocator asks a graph that is gone")
        with self.stream(stream):
            if stream is self.default:
                raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
            gpu().begin_capture()
            try:
                yield
            finally:
                try:
                    into.operations = gpu().end_capture()
                except RuntimeError:
                    self._broken.append(weakref.ref(into))
                    raise


class Generator:
    """The GPU's, as far as a broken capture needs it."""

    def clone_state(self) -> Generator:
        return Generator()

    def graphsafe_set_state(self, state: Generator) -> None:
        if state is self:
            raise AssertionError("the same state still waits for the end of its capture")
        gpu().numbers_wait = False


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
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": CUDAGraph,
    "is_current_stream_capturing": lambda: gpu().is_capturing,
    "default_generators": (Generator(),),
    "get_rng_state": lambda device=None: gpu().random_state.clone(),
    "set_rng_state": _set_random_state,
    "get_sync_debug_mode": lambda: gpu().sync_debug_mode,
    "set_sync_debug_mode": _set_sync_debug_mode,
    "manual_seed_all": lambda seed: _set_random_state(torch.Generator().manual_seed(seed).get_state()),
    "reset_peak_memory_stats": lambda device=None: None,
    "max_memory_allocated": lambda device=None: 0,
    "max_memory_reserved": lambda device=None: 0,
    "empty_cache": lambda: None,
}


@contextmanager
def simulated() -> Iterator[Gpu]:
    """Within, torch has one GPU, `cuda:0`, that is simulated."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    own = Torch()
    streams = {"stream": own.stream, "graph": own.graph, "current_stream": lambda device=None: own.current}
    with (
        mock.patch.multiple(torch.cuda, **_REPLACED, **streams),
        mock.patch.object(torch.accelerator, "is_available", lambda: True),  # loaders pin memory where it is
    ):
        use(Gpu())
        torch.__future__.set_swap_module_params_on_conversion(True)  # parameters become tensors of another class
        try:
            with CudaIsFirst(), OnDevice():
                yield gpu()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
            use(None)
