"""Tensors that say they are on `cuda:0`, and how operations on them come to the simulated GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
NAMES = ("cuda", "meta")  # to torch's C++, which makes zeros like a tensor where that is
_CPU = torch.device("cpu")
_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)


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
            if isinstance(leaf, DeviceTensor) or (isinstance(leaf, torch.device) and leaf.type in NAMES):
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


_now: list[Any] = []


def use(simulated: Any) -> None:
    """Which `Gpu` has the tensors' operations from now on, or None."""
    _now[:] = [] if simulated is None else [simulated]


def gpu() -> Any:
    """The `Gpu` that is simulated now; it imports this module, so its type is not named here."""
    if not _now:
        raise RuntimeError("no GPU is simulated now")
    return _now[0]


def pinned(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().is_page_locked = True  # pyright: ignore[reportAttributeAccessIssue]
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor.untyped_storage(), "is_page_locked", False)


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


def _indices(index: Any) -> Any:
    """Lists as tensors: torch's C++ would make them on `meta`, where they have no values."""
    if isinstance(index, list):
        return torch.tensor(index, device=CUDA)
    return tuple(map(_indices, index)) if isinstance(index, tuple) else index
