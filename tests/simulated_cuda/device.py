"""A device that says it is `cuda:0` and computes on the processor: what a training asks of a GPU shows without one.

A `DeviceTensor` holds a tensor of the processor. All operations on it come to `Gpu.run`, through its class; those that
make a tensor there (`torch.zeros(3, device="cuda")`, `.to("cuda")`) have no such tensor yet and come through the mode
`OnDevice`. `CudaIsFirst` stands before both and puts `cuda:0` for `cuda`, as torch would ask CUDA for the number. To
torch's C++ these tensors are on `meta`: it has no kernels to run by mistake and, unlike `cuda`, asks no driver.

What shows:
- operations over two devices, and fused updates of tensors with other strides, are errors;
- what the host waits for (values that Python or the shape of a result needs, copies that block) is an error in a
  capture;
- copies that nothing waits for, which must be of pinned memory, end late: their target holds rubbish until something
  waits, and their source may not change before;
- a capture records operations with the memory of then and undoes what it did; a replay does them again, without Python;
- its random numbers are its own, and wait for a state of their own after a capture that broke off.

Not simulated: CUDA's own kernels and their order of summing, several streams at once, the thread of its own that
backward has on a GPU, autocast, the allocator. Stricter than CUDA: pinned copies in a capture are errors too.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
# What the host can't go on without: values, and how large a result is.
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_CHECKS = ("_linalg_check_errors",)
_NAMES = ("cuda", "meta")  # to torch's C++, which makes zeros like a tensor where that is
# What operations change without their schema saying so.
_CHANGES = {"native_batch_norm": ("running_mean", "running_var")}
_TAKES_NUMBERS = ("fill_", "fill")  # from the host, as elementwise operations do
_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)


# Modules between an operation and `Gpu.run`.
_BETWEEN = ("simulated_cuda", "torch._compile", "torch._dynamo", "torch._ops", "torch.overrides", "torch.utils._py")


class Memory:
    """What tensors with one storage share; it is gone when the last of them is."""


class DeviceTensor(Tensor):
    """A tensor on the simulated GPU. To torch's own C++ it is on `meta`, which has no kernels to run by mistake."""

    host: Tensor
    memory: Memory
    __torch_function__ = torch._C._disabled_torch_function_impl  # results keep their class

    @staticmethod
    def __new__(cls, host: Tensor, memory: Memory) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device="meta",
        )

    def __init__(self, host: Tensor, memory: Memory) -> None:
        self.host, self.memory = host, memory

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleMethodOverride]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True

    @property
    def is_meta(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"DeviceTensor({self.host!r})"

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Without a device that it is on already, for which torch would copy from `meta`."""
        place = kwargs.get("device", args[0] if args else None)
        if isinstance(place, Tensor):
            kwargs["dtype"], place, args = place.dtype, place.device, (place.device, *args[1:])
        if isinstance(place, (str, torch.device)) and torch.device(place).type == "cuda":
            kwargs.pop("device", None)
            args = args[1:] if args and args[0] is not None and not isinstance(args[0], torch.dtype) else args
            if not args and not set(kwargs) - {"non_blocking"}:
                return self
        return super().to(*args, **kwargs)

    def __getitem__(self, index: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().__setitem__(_indices(index), value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # as it comes back where files are read to the host

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return gpu().run(func, args, kwargs or {})


class Operation:
    """One operation of a capture, on the memory that it had then."""

    def __init__(self, func: Any, args: Any, kwargs: Any, result: Any, needs: list[tuple[Any, str]]) -> None:
        self._func, self._args, self._kwargs, self._result = func, args, kwargs, result
        self._needs = needs  # memory that the capture did not make itself

    def replay(self) -> None:
        for memory, title in self._needs:
            if memory() is None:
                raise AssertionError(f"a replay of {self._func} uses {title}, which is freed")
        result = with_its_numbers(self._func, self._args, self._kwargs)
        for old, new in zip(tensors(self._result), tensors(result), strict=True):
            if address(old) != address(new):
                old.copy_(new)

    def fill_with_rubbish(self) -> None:
        """What it makes is not there until it is replayed."""
        inputs = {address(tensor) for tensor in tensors((self._args, self._kwargs))}
        for tensor in tensors(self._result):
            if address(tensor) not in inputs:
                fill_with_rubbish(tensor)


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
        return place is not None and (torch.device(place).type in _NAMES) != isinstance(source, DeviceTensor)

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
        result = with_its_numbers(func, host_args, host_kwargs)
        if self._captured is not None:
            known = {address(tensor) for tensor in tensors((host_args, host_kwargs))}
            self._made |= {address(tensor) for tensor in tensors(result)} - known
            needs = [
                (weakref.ref(tensor.memory), f"a tensor {tuple(tensor.shape)}")
                for tensor in tree_leaves((args, kwargs))
                if isinstance(tensor, DeviceTensor) and address(tensor.host) not in self._made
            ]
            self._captured.append(Operation(func, host_args, host_kwargs, result, needs))
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


class OnDevice(TorchDispatchMode):
    """Sends operations that name the device, or take its tensors, to the simulated GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name == "is_pinned":
            return is_pinned(args[0])
        if name == "_pin_memory":
            return pinned(args[0].clone())
        if kwargs.pop("pin_memory", False):
            return pinned(func(*args, **kwargs))
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, DeviceTensor) or (isinstance(leaf, torch.device) and leaf.type in _NAMES):
                return gpu().run(func, args, kwargs)
        return func(*args, **kwargs)


class CudaIsFirst(TorchFunctionMode):
    """`cuda` is `cuda:0`; torch would ask CUDA which one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def one(leaf: Any) -> Any:
            is_device = isinstance(leaf, (str, torch.device)) and str(leaf) in ("cuda", "cuda:0")
            return CUDA if is_device else leaf

        if func is torch.device:
            return func(*args, **kwargs or {})
        args, kwargs = tree_map(one, args), tree_map(one, kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return func(args[0].host, *args[1:], **kwargs).to(CUDA)
        if func in _FROM_VALUES and kwargs.get("device") == CUDA:  # their C++ wakes CUDA
            return func(*args, **kwargs | {"device": _CPU}).to(CUDA)
        return func(*args, **kwargs)


_gpu: Gpu | None = None


def gpu() -> Gpu:
    if _gpu is None:
        raise RuntimeError("no GPU is simulated now")
    return _gpu


def use(simulated: Gpu | None) -> None:
    global _gpu
    _gpu = simulated


def pinned(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().is_page_locked = True  # pyright: ignore[reportAttributeAccessIssue]
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor.untyped_storage(), "is_page_locked", False)


def _pinned(tensor: Tensor) -> None:
    if not is_pinned(tensor):
        raise AssertionError("a copy that nothing waits for is of memory that is not pinned: CUDA waits all the same")


def _same_strides(*lists: list[Tensor]) -> None:
    """Of the parameters, gradients and momenta of a fused update; dimensions of size 1 have none."""
    for some in zip(*filter(None, lists), strict=True):
        steps = {tuple(step for size, step in zip(t.shape, t.stride(), strict=True) if size > 1) for t in some}
        if len(steps) > 1:
            raise RuntimeError(f"a fused update of tensors {tuple(some[0].shape)} with strides {steps}")


def _indices(index: Any) -> Any:
    """Lists as tensors: torch's C++ would make them on `meta`, where they have no values."""
    if isinstance(index, list):
        return torch.tensor(index, device=CUDA)
    return tuple(map(_indices, index)) if isinstance(index, tuple) else index


def _caller() -> tuple[str, int]:
    """The line of Python that asked; as on a GPU it may be one of torch."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith(_BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def with_its_numbers(func: Any, args: Any, kwargs: Any) -> Any:
    """Does an operation; random numbers come from the GPU's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    if gpu().numbers_wait:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
    state = torch.get_rng_state()
    torch.set_rng_state(gpu().random_state)
    try:
        return func(*args, **kwargs)
    finally:
        gpu().random_state = torch.get_rng_state()
        torch.set_rng_state(state)


def on_host(values: Any, is_frozen: bool = False) -> Any:
    """As the processor computes it; `is_frozen`: a number that is on the host becomes part of the operation."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, DeviceTensor):
            return leaf.host
        if isinstance(leaf, Tensor) and is_frozen:
            return leaf.clone()
        return _CPU if isinstance(leaf, torch.device) else leaf

    return tree_map(one, values)


def tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def address(tensor: Tensor) -> int:
    """Of its storage."""
    return tensor.untyped_storage()._cdata


def fill_with_rubbish(tensor: Tensor) -> None:
    if tensor.dtype.is_floating_point:
        tensor.fill_(float("nan"))
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max)
