"""A loaded integer network."""

from __future__ import annotations

import json
import operator
import os
from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adderkit.runtime.binding import MOST_THREADS, PARTS, Handle


def load(path: str | os.PathLike[str]) -> Net:
    """Reads and checks the file of an integer network.

    Args:
        path: what `adderkit quantize --out` named.

    Raises:
        ValueError: the file can't be read, is damaged, no integer network, or of a newer version; the message names it
            and says what is wrong.
        ImportError: adderkit is installed without its native library.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"`path` (={encoded!r}) must be text without NUL")
    return Net(Handle("load", encoded))


def parse(data: bytes) -> Net:
    """The same for the content of a file.

    Args:
        data: all of its bytes.

    Raises:
        ValueError, ImportError: as `load`.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"`data` must be bytes, is {type(data).__name__}")
    return Net(Handle("parse", data, len(data)))


class Net:
    """An integer network; `load` makes it.

    A net never changes: several threads may call it at the same time, and a forked process may go on with it,
    if no other thread was running a net at the moment of the fork (a call might then wait for ever). Its memory is
    freed with its last reference, or by `close()`. It can't be pickled: send the path.

    Attributes:
        name: of the network that it was made of, as `resnet20`.
        dataset: name of the images that it was trained on.
        classes: names; logit k belongs to class k.
        height, width, channels: of its images.
        header: what the file says of the network, its layers and where it came from.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle: Handle | None = handle
        self.height, self.width, self.channels, count = handle.shape()
        self.header: dict[str, Any] = json.loads(handle.header())
        self.name: str = self.header["name"]
        self.dataset: str = self.header["dataset"]
        self.classes = tuple(handle.class_name(index) for index in range(count))
        self._layers = handle.layer_count()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.height, self.width, self.channels

    def __call__(self, images: ArrayLike, threads: SupportsIndex = 0) -> NDArray[np.float32]:
        """Runs the network on some images.

        Args:
            images: uint8, shape (N, H, W, C) as decoded, or (N, H, W) for one channel; of any strides. N may be 0.
                Normalisation is part of the network.
            threads: how many to use at most; 0: all cores. The result does not depend on it.

        Returns:
            Logits, float32, shape (N, classes); every one is exact.

        Raises:
            ValueError: naming what does not fit.
            MemoryError: there is not enough memory for the buffers of a layer.
        """
        handle = self._alive()
        pixels = self._pixels(images, "images", "N, ")
        wanted = _whole("threads", threads, MOST_THREADS)
        logits = np.empty((len(pixels), len(self.classes)), np.float32)
        handle.run(pixels, logits, wanted)
        return logits

    def layer_output(self, image: ArrayLike, layer: SupportsIndex) -> NDArray[Any]:
        """What one layer makes of one image, for comparison with other implementations.

        Args:
            image: uint8, shape (H, W, C), or (H, W) for one channel.
            layer: its index in `header["layers"]`.

        Returns:
            Shape (height, width, channels); uint8, of an average pool uint16, of the classifier int32.

        Raises:
            ValueError, MemoryError: as `__call__`.
        """
        handle = self._alive()
        pixels = self._pixels(image, "image", "")
        return handle.layer_output(pixels, _whole("layer", layer, self._layers - 1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the file's arrays by name: `0.weight`, `0.pad`, `0.multiplier`, `0.offset`, `1.weight`, ..."""
        handle = self._alive()
        names = [f"{layer}.{part}" for layer in range(self._layers) for part in PARTS]
        found = ((name, handle.array(name)) for name in names)
        return {name: array for name, array in found if array is not None}

    def close(self) -> None:
        """Frees the memory, once no thread runs the network any more. Calls after that raise ValueError."""
        self._handle = None

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.height}x{self.width}x{self.channels}"
        state = ", closed" if self._handle is None else ""
        return f"<Net {self.name!r} of {self.dataset!r}: uint8 {size}, {len(self.classes)} classes{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Net can't be pickled or copied, being native memory: send its path and load it there")

    def _alive(self) -> Handle:
        if self._handle is None:
            raise ValueError("this Net is closed")
        return self._handle

    def _pixels(self, given: ArrayLike, argument: str, batch: str) -> NDArray[np.uint8]:
        pixels = np.asarray(given)
        if pixels.dtype != np.uint8:
            raise ValueError(
                f"`{argument}` has the dtype {pixels.dtype}; it must be uint8, from 0 to 255, not normalised"
            )
        if self.channels == 1 and pixels.ndim == len(batch.split()) + 2:
            pixels = pixels[..., None]
        if pixels.ndim != len(batch.split()) + 3 or pixels.shape[-3:] != self.shape:
            also = f" or ({batch}{self.height}, {self.width})" if self.channels == 1 else ""
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"`{argument}` has the shape {np.shape(given)}; it must be ({batch}{wanted}){also}")
        return np.ascontiguousarray(pixels)


def _whole(name: str, value: SupportsIndex, highest: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number <= highest:
        raise ValueError(f"`{name}` (={value!r}) must be a whole number from 0 to {highest}")
    return number
