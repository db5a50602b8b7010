"""Small sets: every image decoded once, all held as one uint8 tensor on the device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adderkit.data import image
from adderkit.data.raw import RawSplit
from adderkit.data.split import Preparation, Split

_CHUNK = 256  # images per task, so that a task lasts 30 ms or more
# Pillow holds the interpreter for 100 us of each image, so threads pay for large ones only. Time per JPEG with 1 and
# with 2 threads on 2 cores: 32x32 128 and 162 us, 96x96 171 and 165 us, 500x375 resized to 224 2560 and 1390 us.
_THREADS_FROM_PIXELS = 100 * 100


def decode_all(raw: RawSplit, size: image.Size) -> NDArray[np.uint8]:
    """Decodes a split, with all cores where images are large.

    Returns:
        Shape (N, C, H, W), uint8, a view of (N, H, W, C) memory; C = 3 if any image has colour.

    Raises:
        ValueError: A broken image, or images of different sizes; the message names them.
    """
    first = image.read(raw, 0, size)
    height, width, channels = first.shape
    pixels = np.empty((len(raw), height, width, channels), np.uint8)
    for row, one in enumerate(_decoded(raw, size, height * width)):
        if one.shape[:2] != (height, width):
            raise image.mixed_sizes(raw.where(0), (width, height), raw.where(row), one.shape[1::-1])
        if one.shape[2] > pixels.shape[3]:  # the first image with colour in a set so far grey
            pixels = np.repeat(pixels, 3, axis=3)
        pixels[row] = one
    return pixels.transpose(0, 3, 1, 2)


def hold(raw: RawSplit) -> RawSplit:
    """The same split with every image decoded, held in memory at its own size.

    Raises:
        ValueError: A broken image; the message names it.
    """
    first = image.read(raw, 0, None)
    pixels = [one.squeeze(2) if one.shape[2] == 1 else one for one in _decoded(raw, None, first.size // first.shape[2])]
    return RawSplit(raw.labels, lambda i: Image.fromarray(pixels[i]), raw.where)


def _decoded(raw: RawSplit, size: image.Size, area: int) -> Iterator[NDArray[np.uint8]]:
    """All images in order, by threads where they are of `area` pixels or so and that is many."""

    def chunk(start: int) -> list[NDArray[np.uint8]]:
        rows = range(start, min(start + _CHUNK, len(raw)))
        return [image.read(raw, i, size) for i in rows]

    threads = (os.cpu_count() or 1) if area >= _THREADS_FROM_PIXELS else 1
    with ThreadPoolExecutor(threads) as pool:
        try:
            for decoded in pool.map(chunk, range(0, len(raw), _CHUNK)):
                yield from decoded
        finally:
            pool.shutdown(cancel_futures=True)


def expand(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Repeats the channel of grey images, uint8 (N, C, H, W), where a set has colour elsewhere."""
    if pixels.shape[1] == channels:
        return pixels
    return np.repeat(pixels.transpose(0, 2, 3, 1), channels, axis=3).transpose(0, 3, 1, 2)


class TensorSplit(Split):
    """A split held in memory, every image at the network's size: for test images, and training images that need no
    resized crop.

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

    @property
    def evaluated_at_once(self) -> int:
        """More small images on a GPU, which 256 of them do not fill."""
        height, width = self._images.shape[2:]
        return max(256, min(2048, 2**21 // (height * width))) if self._images.is_cuda else 256

    def _read(
        self, batches: Sequence[NDArray[np.int64]], words: Iterable[NDArray[np.uint64]] | None = None
    ) -> Iterator[Tensor]:
        if words is not None:
            raise ValueError("images held at one size can't be cut anew")
        for rows in self._moved(batches):
            yield self._images[rows]
