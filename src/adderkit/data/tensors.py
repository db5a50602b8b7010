"""Small sets: every image decoded once, all held as one uint8 tensor on the device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderkit.data import image
from adderkit.data.raw import RawSplit
from adderkit.data.split import Preparation, Split

_CHUNK = 256  # images per task: 32x32 JPEGs take 50 us each, so a task lasts 10 ms and its overhead is nothing


def decode_all(raw: RawSplit, size: int | None) -> NDArray[np.uint8]:
    """Decodes a split with all cores.

    Returns:
        Shape (N, C, H, W), uint8; C = 3 if any image has colour.

    Raises:
        ValueError: A broken image, or images of different sizes; the message names them.
    """

    def chunk(start: int) -> list[NDArray[np.uint8]]:
        rows = range(start, min(start + _CHUNK, len(raw)))
        return [image.read(raw.open, raw.where, i, size) for i in rows]

    first = image.read(raw.open, raw.where, 0, size)
    height, width, channels = first.shape
    pixels = np.empty((len(raw), height, width, channels), np.uint8)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        row = 0
        try:
            for decoded in pool.map(chunk, range(0, len(raw), _CHUNK)):
                for one in decoded:
                    if one.shape[:2] != (height, width):
                        raise mixed_sizes(raw.where(0), (width, height), raw.where(row), one.shape[1::-1])
                    if one.shape[2] > pixels.shape[3]:  # the first image with colour in a set so far grey
                        pixels = np.repeat(pixels, 3, axis=3)
                    pixels[row] = one
                    row += 1
        finally:
            pool.shutdown(cancel_futures=True)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def mixed_sizes(one: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> ValueError:
    """The error for two images of different sizes (width, height)."""
    sizes = ["x".join(str(side) for side in s) for s in (size, other_size)]
    return ValueError(
        f"image sizes differ: {one} is {sizes[0]}, {other} is {sizes[1]} (width x height); "
        "set `image_size` to resize and crop all images to one size"
    )


class TensorSplit(Split):
    """A split held in memory.

    Args:
        pixels: Shape (N, C, H, W), uint8.
        labels: Shape (N,), int64.
        preparation: What is done to each batch.
        device: Where the images are held and the batches made.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        preparation: Preparation,
        device: torch.device,
    ) -> None:
        super().__init__(labels, preparation, device)
        self._images = torch.from_numpy(pixels).to(device)

    def _read(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        for rows in batches:
            yield self._images[torch.from_numpy(rows).to(self._device)]
