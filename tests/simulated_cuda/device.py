"""A device that says it is `cuda:0` and computes on the processor: what a training does to a GPU shows without one.

Tensors on it hold a processor's tensor. What CUDA would refuse is refused: operations over two devices, reads by the
host during a capture. Copies that nothing waits for end late: until the host waits, their target holds rubbish, and
their source may not change. Captured work is a list of operations on the memory of then, replayed without its Python.

Not simulated: CUDA's own kernels (each operation has the processor's values), several streams at once, autocast.
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
# What the host can't go on without, having asked for it.
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
_NAMES = ("cuda", "meta")  # to torch's C++, which makes zeros like a tensor where that is
# What operations change without their schema saying so.
_CHANGES = {"native_batch_norm": ("running_mean", "running_var")}
_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
_COPIES = ("_to_copy", "copy_")


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
        result = with_own_numbers(self._func, self._args, self._kwargs)
        for old, new in zip(tensors(self._result), tensors(result), strict=True):
            if address(old) != address(new):
                old.copy_(new)

    def spoil(self) -> None:
        """What it makes holds rubbish until it is replayed."""
        inputs = {address(tensor) for tensor in tensors((self._args, self._kwargs))}
        for tensor in tensors(self._result):
            if address(tensor) not in inputs:
                spoil(tensor)


class Gpu:
    """The simulated GPU.

    Attributes:
        random_state: of its generator of random numbers.
        sync_debug_mode: 1 warns where the host waits.
        replays: of graphs, so far.
    """

    def __init__(self) -> None:
        self.random_state = torch.get_rng_state()
        self.sync_debug_mode = 0
        self.replays = 0
        self._memory: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._captured: list[Operation] | None = None
        self._own: set[int] = set()  # storages that the capture made
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # storages that it changed: the bytes, and what they were
        self._late: list[Callable[[], object]] = []

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
        if name in ("is_pinned", "_pin_memory"):
            raise AssertionError(f"{name} of a tensor on the GPU")
        if name in _READS or (name.startswith("index") and any(t.dtype == torch.bool for t in tensors(args)[1:])):
            self.wait(name)
        if name in _COPIES and self._crosses(name, args, kwargs):
            return self._copy(name, func, args, kwargs)
        self._same_device(name, args, kwargs)
        return self._compute(func, args, kwargs)

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        if self.is_capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        if self.sync_debug_mode:
            file, line = _caller()
            warnings.warn_explicit(f"called a synchronizing CUDA operation ({what})", UserWarning, file, line)
        self.finish()

    def finish(self) -> None:
        """Copies that were under way are done."""
        late, self._late = self._late, []
        for end in late:
            end()

    def begin_capture(self) -> None:
        if self.is_capturing:
            raise RuntimeError("a capture is under way")
        self._captured, self._own, self._before = [], set(), {}
        self._numbers = self.random_state

    def end_capture(self) -> list[Operation]:
        """Everything is as it was before the capture."""
        operations = self._captured or []
        self._captured = None
        self.random_state = self._numbers
        for operation in operations:
            operation.spoil()
        for storage, before in self._before.values():
            storage.copy_(before)
        return operations

    def _crosses(self, name: str, args: Any, kwargs: Any) -> bool:
        if name == "copy_":
            return len({isinstance(tensor, DeviceTensor) for tensor in args[:2]}) == 2
        place = kwargs.get("device")
        to_device = place is not None and torch.device(place).type == "cuda"
        return place is not None and to_device != isinstance(args[0], DeviceTensor)

    def _copy(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Between host and device."""
        if self.is_capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({name})")
        is_late = bool(kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False))
        source = args[1] if name == "copy_" else args[0]
        if not is_late:
            self.wait(name)
        host_args, host_kwargs = on_host((args, kwargs))
        if name == "copy_" and is_late:
            result = self._copy_late(args[0], host_args[0], host_args[1])
        else:
            result = func(*host_args, **host_kwargs)
            if name == "_to_copy":
                # A copy of equal type and layout may not share memory with what it was made of.
                result = result if address(result) != address(host_args[0]) else result.clone()
                result = result if isinstance(source, DeviceTensor) else self.wrap(result)
            else:
                result = args[0]
        if is_late and name == "_to_copy":
            if isinstance(source, DeviceTensor):
                value = result.clone()
                spoil(result)
                self._late.append(partial(result.copy_, value))
            else:
                self._unchanged(source)
        return result

    def _copy_late(self, target: Tensor, host_target: Tensor, source: Tensor) -> Tensor:
        if isinstance(target, DeviceTensor):
            host_target.copy_(source)
            self._unchanged(source)
        else:
            value = source.clone()
            spoil(host_target)
            self._late.append(partial(host_target.copy_, value))
        return target

    def _unchanged(self, source: Tensor) -> None:
        before = source.clone()

        def check() -> None:
            if not torch.equal(source.nan_to_num(), before.nan_to_num()):
                raise AssertionError("the source of a copy that nothing waited for has changed meanwhile")

        self._late.append(check)

    def _same_device(self, name: str, args: Any, kwargs: Any) -> None:
        found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        strangers = [tensor for tensor in found if not isinstance(tensor, DeviceTensor) and tensor.dim() > 0]
        if name.startswith("index") and isinstance(args[0], DeviceTensor) and strangers:
            inside = [tensor for tensor in tree_leaves(args[1]) if isinstance(tensor, Tensor)]
            if all(any(tensor is index for index in inside) for tensor in strangers):
                return self.wait(name)  # CUDA copies indices of the host
        if strangers and len(strangers) < len(found):
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} has some on cuda:0, some on cpu")

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = on_host((args, kwargs), is_frozen=self.is_capturing)
        if self.is_capturing:
            self._remember(func, host_args, host_kwargs)
        result = with_own_numbers(func, host_args, host_kwargs)
        if self._captured is not None:
            known = {address(tensor) for tensor in tensors((host_args, host_kwargs))}
            self._own |= {address(tensor) for tensor in tensors(result)} - known
            needs = [
                (weakref.ref(tensor.memory), f"a tensor {tuple(tensor.shape)}")
                for tensor in tree_leaves((args, kwargs))
                if isinstance(tensor, DeviceTensor) and address(tensor.host) not in self._own
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
                if key not in self._own and key not in self._before:
                    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                    self._before[key] = (whole, whole.clone())


class OnDevice(TorchDispatchMode):
    """Sends operations that name the device, or take its tensors, to the simulated GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "is_pinned":
            return True
        if name == "_pin_memory":
            return args[0].clone()
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, DeviceTensor) or (isinstance(leaf, torch.device) and leaf.type in _NAMES):
                return gpu().run(func, args, kwargs)
        return func(*args, **kwargs)


class OnFirst(TorchFunctionMode):
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


def _indices(index: Any) -> Any:
    """Lists as tensors: torch's C++ would make them on `meta`, where they have no values."""
    if isinstance(index, list):
        return torch.tensor(index, device=CUDA)
    return tuple(map(_indices, index)) if isinstance(index, tuple) else index


def _caller() -> tuple[str, int]:
    """The line of Python that asked: neither torch's nor one of these files."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("torch", "simulated_cuda"):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def with_own_numbers(func: Any, args: Any, kwargs: Any) -> Any:
    """Does an operation; random numbers come from the GPU's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
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


def spoil(tensor: Tensor) -> None:
    if tensor.dtype.is_floating_point:
        tensor.fill_(float("nan"))
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max)
