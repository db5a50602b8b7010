"""The simulated GPU: does operations on the processor, and refuses what CUDA would."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from simulated_cuda.capture import Operation, with_its_numbers
from simulated_cuda.tensor import (
    NAMES,
    DeviceTensor,
    Memory,
    address,
    fill_with_rubbish,
    is_pinned,
    on_host,
    tensors,
)

# What the host can't go on without: values, and how large a result is.
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_CHECKS = ("_linalg_check_errors",)
# What operations change without their schema saying so.
_CHANGES = {"native_batch_norm": ("running_mean", "running_var")}
_TAKES_NUMBERS = ("fill_", "fill")  # from the host, as elementwise operations do
# Modules between an operation and `Gpu.run`.
_BETWEEN = ("simulated_cuda", "torch._compile", "torch._dynamo", "torch._ops", "torch.overrides", "torch.utils._py")


class Gpu:
    """The simulated GPU.

    Attributes:
        random_state: of its generator of random numbers.
        sync_debug_mode: 1 warns where the host waits.
        replays: of graphs, so far.
        numbers_wait: a capture broke off, and the generator has had no new state since.
    """

    def __init__(self) -> None:
        self.random_state = torch.get_rng_state()
        self.sync_debug_mode = 0
        self.replays = 0
        self.numbers_wait = False
        self._is_broken = False
        self._memory: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._captured: list[Operation] | None = None
        self._made: set[int] = set()  # storages that the capture made
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # storages that it changed: the bytes, and what they were
        self._unfinished: list[Callable[[], object]] = []

    @property
    def is_capturing(self) -> bool:
        return self._captured is not None

    def wrap(self, host: Tensor) -> DeviceTensor:
        key = address(host)
        memory = self._memory.get(key)
        if memory is None:
            memory = self._memory[key] = Memory()
        return DeviceTensor(host, memory)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation that has something to do with the device."""
        name = func.overloadpacket.__name__
        is_masked = name.startswith("index") and any(tensor.dtype == torch.bool for tensor in tensors(args)[1:])
        if is_masked or name in _CHECKS or _READS & set(func.tags):
            self.wait(name)
        if name == "_to_copy" and self._leaves(args[0], kwargs):
            return self._to_copy(func, args[0], kwargs)
        if name == "copy_" and isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
            return self._copy(*args, **kwargs)
        self._same_device(func, args, kwargs)
        if name == "_fused_sgd_":
            _same_strides(*args[:3])
        return self._compute(func, args, kwargs)

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self._refuse_in_capture(what)
        if self.sync_debug_mode:
            file, line = _caller()
            warnings.warn_explicit(f"called a synchronizing CUDA operation ({what})", UserWarning, file, line)
        self.finish()

    def _refuse_in_capture(self, what: str) -> None:
        if self.is_capturing:
            self._is_broken = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def finish(self) -> None:
        """Copies that were under way are done."""
        unfinished, self._unfinished = self._unfinished, []
        for end in unfinished:
            end()

    def begin_capture(self) -> None:
        if self.is_capturing or self.numbers_wait:
            raise RuntimeError("a capture is under way, or one has broken off and random numbers wait for its end")
        self._captured, self._made, self._before, self._is_broken = [], set(), {}, False
        self._state_before = self.random_state

    def end_capture(self) -> list[Operation]:
        """Everything is as it was before the capture.

        Raises:
            RuntimeError: the capture has broken off; random numbers wait.
        """
        operations = self._captured or []
        self._captured = None
        self.random_state = self._state_before
        for operation in operations:
            operation.fill_with_rubbish()
        for storage, before in self._before.values():
            storage.copy_(before)
        if self._is_broken:
            self.numbers_wait = True
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        return operations

    @staticmethod
    def _leaves(source: Tensor, kwargs: Any) -> bool:
        place = kwargs.get("device")
        return place is not None and (torch.device(place).type in NAMES) != isinstance(source, DeviceTensor)

    def _to_copy(self, func: Any, source: Tensor, kwargs: Any) -> Tensor:
        """To a new tensor on the other side."""
        host_source, host_kwargs = on_host((source, kwargs))
        copied = func(host_source, **host_kwargs)
        copied = copied.clone() if address(copied) == address(host_source) else copied
        if not kwargs.get("non_blocking"):
            self.wait("_to_copy")
        elif isinstance(source, DeviceTensor):
            self._end_later(copied, copied.clone())
        else:
            self._unchanged(source)
        return copied if isinstance(source, DeviceTensor) else self.wrap(copied)

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """Into a tensor on the other side."""
        host_target, host_source = on_host((target, source))
        if not non_blocking:
            self.wait("copy_")
            host_target.copy_(host_source)
        elif isinstance(target, DeviceTensor):
            host_target.copy_(source)
            self._unchanged(source)
        else:
            _pinned(target)
            self._end_later(target, host_source.clone())
        return target

    def _end_later(self, target: Tensor, value: Tensor) -> None:
        self._refuse_in_capture("a copy")
        fill_with_rubbish(target)
        self._unfinished.append(partial(target.copy_, value))

    def _unchanged(self, source: Tensor) -> None:
        self._refuse_in_capture("a copy")
        _pinned(source)
        before = source.clone()

        def check() -> None:
            if not torch.equal(source.nan_to_num(), before.nan_to_num()):
                raise AssertionError("the source of a copy that nothing waited for has changed meanwhile")

        self._unfinished.append(check)

    def _same_device(self, func: Any, args: Any, kwargs: Any) -> None:
        found = tensors((args, kwargs))
        strangers = [tensor for tensor in found if not isinstance(tensor, DeviceTensor)]
        name = func.overloadpacket.__name__
        if torch.Tag.pointwise in func.tags or name in _TAKES_NUMBERS:
            strangers = [tensor for tensor in strangers if tensor.dim() > 0]
        if not strangers or len(strangers) == len(found):
            return
        if name.startswith("index") and isinstance(args[0], DeviceTensor):
            inside = tensors(args[1])
            if all(any(tensor is index for index in inside) for tensor in strangers):
                return self.wait(name)  # CUDA copies indices of the host
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} has some on cuda:0, some on cpu")

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = on_host((args, kwargs), is_frozen=self.is_capturing)
        if self.is_capturing:
            self._remember(func, host_args, host_kwargs)
        result = with_its_numbers(self, func, host_args, host_kwargs)
        if self._captured is not None:
            known = {address(tensor) for tensor in tensors((host_args, host_kwargs))}
            self._made |= {address(tensor) for tensor in tensors(result)} - known
            needs = [
                (weakref.ref(tensor.memory), f"a tensor {tuple(tensor.shape)}")
                for tensor in tree_leaves((args, kwargs))
                if isinstance(tensor, DeviceTensor) and address(tensor.host) not in self._made
            ]
            self._captured.append(Operation(self, func, host_args, host_kwargs, result, needs))
        wrapped = tree_map(lambda leaf: self.wrap(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _remember(self, func: Any, args: Any, kwargs: Any) -> None:
        """What an operation of a capture is about to change."""
        schema = func._schema.arguments
        hidden = _CHANGES.get(func.overloadpacket.__name__, ())
        given = [*zip(schema, args, strict=False)]
        given += [(argument, kwargs[argument.name]) for argument in schema if argument.name in kwargs]
        for argument, value in given:
            is_write = argument.alias_info is not None and argument.alias_info.is_write
            if not is_write and argument.name not in hidden:
                continue
            for tensor in tensors(value):
                key = address(tensor)
                if key not in self._made and key not in self._before:
                    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                    self._before[key] = (whole, whole.clone())


def _pinned(tensor: Tensor) -> None:
    if not is_pinned(tensor):
        raise AssertionError("a copy that nothing waits for is of memory that is not pinned: CUDA waits all the same")


def _same_strides(*lists: list[Tensor]) -> None:
    """Of the parameters, gradients and momenta of a fused update; dimensions of size 1 have none."""
    for some in zip(*filter(None, lists), strict=True):
        steps = {tuple(step for size, step in zip(t.shape, t.stride(), strict=True) if size > 1) for t in some}
        if len(steps) > 1:
            raise RuntimeError(f"a fused update of tensors {tuple(some[0].shape)} with strides {steps}")


def _caller() -> tuple[str, int]:
    """The line of Python that asked; as on a GPU it may be one of torch."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith(_BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
