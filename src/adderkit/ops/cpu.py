"""`adder2d` on the processor: the native library's float32 kernels, through ctypes."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from adderkit import native


class _Shape(ctypes.Structure):
    """`adderkit_conv2d_shape` of native/include/adderkit.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("out_channels", "kernel_height", "kernel_width")),
        *((name, ctypes.c_int64 * 2) for name in ("stride", "padding", "dilation")),
        ("groups", ctypes.c_int64),
        *((name, ctypes.c_int64 * 4) for name in ("input_stride", "weight_stride", "output_stride")),
    )


def is_available() -> bool:
    """Whether the native kernels run; where they do not, warns once that the reference is slow."""
    if native.library() is not None:
        return True
    _warn_once(native.reason())
    return False


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"adder2d runs in plain torch, 10 times slower or more: {reason}", RuntimeWarning, stacklevel=2)


def forward(
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """As `reference.forward`, for float32 tensors of any strides on the processor."""
    shape = _shape(
        (*input.shape, *weight.shape),
        (tuple(stride), tuple(padding), tuple(dilation), groups),
        (input.stride(), weight.stride(), output.stride()),
    )
    status = _functions()[0](shape, input.data_ptr(), weight.data_ptr(), output.data_ptr(), torch.get_num_threads())
    native.check(status)


def input_grad(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """As `reference.input_grad`, for float32 tensors of any strides on the processor."""
    shape = _shape(
        (*input.shape, *weight.shape),
        (tuple(stride), tuple(padding), tuple(dilation), groups),
        (input.stride(), weight.stride(), grad_output.stride()),
    )
    status = _functions()[1](
        shape,
        grad_output.data_ptr(),
        input.data_ptr(),
        weight.data_ptr(),
        grad_input.data_ptr(),
        (ctypes.c_int64 * 4)(*grad_input.stride()),
        torch.get_num_threads(),
    )
    native.check(status)


@cache
def _functions() -> tuple[Callable[..., int], Callable[..., int]]:
    library = native.library()
    if library is None:
        raise RuntimeError(native.reason())
    pointer, shape = ctypes.c_void_p, ctypes.POINTER(_Shape)
    forward, input_grad = library.adderkit_adder2d_f32, library.adderkit_adder2d_input_grad_f32
    forward.argtypes = [shape, pointer, pointer, pointer, ctypes.c_int32]
    input_grad.argtypes = [shape, pointer, pointer, pointer, pointer, pointer, ctypes.c_int32]
    return forward, input_grad


@lru_cache(maxsize=1024)  # a network repeats a few shapes; filling one in takes 5 us
def _shape(
    sizes: tuple[int, ...],
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int],
    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> _Shape:
    batch, channels, height, width, out_channels, _, kernel_height, kernel_width = sizes
    stride, padding, dilation, groups = geometry
    pair, four = ctypes.c_int64 * 2, ctypes.c_int64 * 4
    return _Shape(
        batch,
        channels,
        height,
        width,
        out_channels,
        kernel_height,
        kernel_width,
        pair(*stride),
        pair(*padding),
        pair(*dilation),
        groups,
        four(*strides[0]),
        four(*strides[1]),
        four(*strides[2]),
    )
