"""A driver for Triton whose GPU is the processor: it runs the PTX of kernels that Triton itself compiled and launches.

So what is tested is all of Triton's way to a GPU but ptxas' translation: how arguments are typed and specialised, the
passes, inline assembly, layouts and address arithmetic. Each load and store must lie in the elements of a tensor that
was given, each store in an output's, and each element of an output must be stored exactly once.
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import tempfile
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from ptx_parse import Instruction, Kernel, parse
from ptx_to_c import translate
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import get_cache_manager

# Among the arguments of each kernel.
OUTPUTS = {"forward_kernel": ("y",), "input_grad_kernel": ("y",), "pack_kernel": ("packed", "flags")}
_KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int32: "*i32"}
_FAULTS = {
    1: "loads {bytes} bytes, which are not all of a tensor, at {place}",
    2: "stores {bytes} bytes, which are not all of an output, at {place}",
    3: "uses shared memory beyond its end, {bytes} bytes at {address}",
    4: "uses an address that is no multiple of {bytes}, {place}",
    5: "divides by zero",
    6: "waits for threads that are elsewhere",
    7: "does not end",
    8: "does not name all threads of a warp",
}


class Fault(Exception):
    """What a GPU would do wrong, perhaps unseen."""


class _Region(ctypes.Structure):
    _fields_ = [
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("inside", ctypes.c_void_p),
        ("written", ctypes.c_void_p),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("at", ctypes.c_uint32),
        ("program", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
    ]


class Elements(NamedTuple):
    """Where the elements of a tensor lie, and how often each was stored; of an input None."""

    name: str
    tensor: Tensor
    inside: np.ndarray
    written: np.ndarray | None

    @property
    def start(self) -> int:
        return self.tensor.data_ptr()

    @property
    def size(self) -> int:
        return self.tensor.element_size()

    @property
    def end(self) -> int:
        return self.start + self.size * len(self.inside)

    def region(self) -> _Region:
        written = None if self.written is None else self.written.ctypes.data
        return _Region(self.start, self.end, self.size, self.inside.ctypes.data, written)

    def of_tensor(self, bytes: np.ndarray) -> np.ndarray:
        """Those of the tensor's elements, in its shape."""
        return np.lib.stride_tricks.as_strided(bytes, self.tensor.shape, self.tensor.stride())


def elements(name: str, tensor: Tensor, is_output: bool) -> Elements:
    """The gaps between the elements of a view belong to others."""
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    inside = zeros(span if tensor.numel() else 0)
    found = Elements(name, tensor, inside, zeros(len(inside)) if is_output else None)
    found.of_tensor(inside)[...] = 1
    return found


def zeros(count: int) -> np.ndarray:
    """Bytes that take memory only where they are used, as those between far images are not."""
    if not count:
        return np.zeros(0, np.uint8)
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.11 on
    return np.frombuffer(mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve), np.uint8)


class Program:
    """PTX as a function of this process."""

    def __init__(self, ptx: str, folder: Path, compiler: str) -> None:
        self.kernel: Kernel = parse(ptx)
        # One path to a library is one library to the loader.
        folder = Path(tempfile.mkdtemp(dir=folder))
        source, library = folder / "kernel.c", folder / "kernel.so"
        source.write_text(translate(self.kernel), encoding="utf-8")
        # Sums and products stay apart where PTX has them apart; registers wrap. Optimising takes longer than it saves.
        options = ["-O0", "-std=gnu11", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing", "-fPIC", "-w"]
        subprocess.run([compiler, *options, "-shared", "-o", library, source, "-lm"], check=True)
        self._launch = ctypes.CDLL(str(library)).launch

    def run(self, grid: tuple[int, ...], arguments: list[int], tensors: list[Elements], shared: int = 0) -> None:
        """`arguments` as unsigned numbers of 64 bits; the rest of those that the kernel has, scratch space, are 0."""
        arguments = [*arguments, *[0] * (len(self.kernel.parameters) - len(arguments))]
        values = (ctypes.c_uint64 * len(arguments))(*(argument % (1 << 64) for argument in arguments))
        regions = (_Region * len(tensors))(*(tensor.region() for tensor in tensors))
        sizes = (ctypes.c_uint32 * 3)(*grid, *[1] * (3 - len(grid)))
        fault = _Fault()
        self._launch(values, sizes, regions, len(tensors), shared, ctypes.byref(fault))
        if fault.kind:
            raise Fault(self._message(fault, tensors))
        for tensor in tensors:
            if tensor.written is None:
                continue
            times = tensor.of_tensor(tensor.written)
            if (times != 1).any():
                at = tuple(int(index[0]) for index in np.nonzero(times != 1))
                raise Fault(f"{self.kernel.name} stores {tensor.name}{list(at)} {times[at]} times")

    def _message(self, fault: _Fault, tensors: list[Elements]) -> str:
        instruction = self.kernel.body[fault.at]
        assert isinstance(instruction, Instruction)

        def distance(tensor: Elements) -> int:
            return max(tensor.start - fault.address, fault.address - tensor.end, 0)

        place = hex(fault.address)
        if tensors:
            near = min(tensors, key=distance)
            place = f"{near.name} {fault.address - near.start:+} bytes of {near.end - near.start}"
        what = _FAULTS[fault.kind].format(bytes=fault.bytes, place=place, address=fault.address)
        who = f"{self.kernel.name}, program {tuple(fault.program)}, thread {fault.thread}"
        return f"{who}: {what} ({instruction.source}: {instruction.text})"


class Driver:
    """What Triton asks of a driver, for a GPU of compute capability 9.0."""

    def __init__(self, folder: Path, compiler: str) -> None:
        self.launches: list[str] = []  # names of kernels
        self.launcher_cls = self._launcher
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (None, None, 0, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 227 * 1024},
        )
        self._folder, self._compiler = folder, compiler
        self._program = cache(self._translated)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1  # no GPU has it

    def get_current_stream(self, device: int) -> int:
        return 0

    def _translated(self, hash: str, name: str) -> Program:
        path = get_cache_manager(hash).get_file(f"{name}.ptx")
        assert path is not None
        return Program(Path(path).read_text(encoding="utf-8"), self._folder, self._compiler)

    def _launcher(self, source: Any, metadata: Any) -> Any:
        program = self._program(metadata.hash, metadata.name)
        kinds: dict[str, str] = source.signature
        outputs = OUTPUTS[metadata.name]

        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            values = dict(zip(kinds, rest[-len(kinds) :], strict=True))
            arguments, tensors = [], []
            for name, kind in kinds.items():
                value = values[name]
                if kind.startswith("*"):
                    assert isinstance(value, Tensor)
                    assert kind == _KINDS[value.dtype]
                    arguments.append(value.data_ptr())
                    tensors.append(elements(name, value, name in outputs))
                elif kind != "constexpr":
                    bits = int(kind[1:])
                    assert -(1 << bits - 1) <= value < 1 << (bits if kind[0] == "u" else bits - 1)
                    arguments.append(value)
            assert prod((x, y, z)) > 0
            self.launches.append(metadata.name)
            program.run((x, y, z), arguments, tensors, metadata.shared)

        return launch
