"""The functions of `native/include/adderkit.h` that integer networks need, through ctypes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from adderkit import native

MOST_THREADS = 4096
DTYPES: tuple[DTypeLike, ...] = (np.uint8, np.int8, np.uint16, np.int32, np.int64)  # by `adderkit_dtype`
PARTS = ("weight", "pad", "multiplier", "offset")

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "load": (c_int32, [c_char_p, POINTER(c_void_p)]),
    "parse": (c_int32, [c_char_p, c_int64, POINTER(c_void_p)]),
    "free": (None, [c_void_p]),
    "shape": (c_int32, [c_void_p, POINTER(c_int64)]),
    "header": (c_char_p, [c_void_p]),
    "class": (c_char_p, [c_void_p, c_int64]),
    "run": (c_int32, [c_void_p, c_void_p, c_int64, c_void_p, c_int32]),
    "layer_count": (c_int32, [c_void_p]),
    "layer_shape": (c_int32, [c_void_p, c_int32, POINTER(c_int32), POINTER(c_int64)]),
    "layer_output": (c_int32, [c_void_p, c_void_p, c_int32, c_void_p, c_int64]),
    "array": (c_int32, [c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_int32), POINTER(c_int64), POINTER(c_int32)]),
}


@cache
def _functions() -> dict[str, Any]:
    library = native.library()
    if library is None:
        raise ImportError(f"integer networks run on the native library alone: {native.reason()}")
    functions = {}
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"adderkit_net_{name}")
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    return functions


class Handle:
    """A network of the native library, freed with the last reference to this object.

    A call holds a reference of its own, so nothing is freed while another thread still runs it.
    """

    def __init__(self, made: str, *arguments: Any) -> None:
        self._pointer = None
        self._functions = _functions()
        pointer = c_void_p()
        native.check(self._functions[made](*arguments, ctypes.byref(pointer)))
        self._pointer = pointer

    def __del__(self) -> None:
        if self._pointer is not None:
            self._functions["free"](self._pointer)

    def shape(self) -> tuple[int, int, int, int]:
        """Height, width and channels of the images, number of classes."""
        shape = (c_int64 * 4)()
        native.check(self._functions["shape"](self._pointer, shape))
        return shape[0], shape[1], shape[2], shape[3]

    def header(self) -> bytes:
        """The JSON text that describes the network."""
        return self._functions["header"](self._pointer)

    def class_name(self, index: int) -> str:
        """UTF-8, as the reader has checked."""
        return self._functions["class"](self._pointer, index).decode()

    def layer_count(self) -> int:
        return self._functions["layer_count"](self._pointer)

    def run(self, images: NDArray[np.uint8], logits: NDArray[np.float32], threads: int) -> None:
        """Both contiguous."""
        call = self._functions["run"]
        native.check(call(self._pointer, images.ctypes.data, len(images), logits.ctypes.data, threads))

    def layer_output(self, image: NDArray[np.uint8], layer: int) -> NDArray[Any]:
        """`image` is contiguous."""
        dtype, shape = c_int32(), (c_int64 * 3)()
        native.check(self._functions["layer_shape"](self._pointer, layer, ctypes.byref(dtype), shape))
        output = np.empty(tuple(shape), DTYPES[dtype.value])
        call = self._functions["layer_output"]
        native.check(call(self._pointer, image.ctypes.data, layer, output.ctypes.data, output.nbytes))
        return output

    def array(self, name: str) -> NDArray[Any] | None:
        """A copy of one of the file's arrays; None where there is none of this name."""
        data, dtype, shape, rank = c_void_p(), c_int32(), (c_int64 * 4)(), c_int32()
        call = self._functions["array"]
        if call(self._pointer, name.encode(), *map(ctypes.byref, (data, dtype)), shape, ctypes.byref(rank)):
            return None
        array = np.empty(tuple(shape[: rank.value]), DTYPES[dtype.value])
        assert data.value is not None
        ctypes.memmove(array.ctypes.data, data.value, array.nbytes)
        return array
