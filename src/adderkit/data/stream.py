"""Large sets: images decoded by threads as they are needed.

Threads and not worker processes: Pillow lets go of the interpreter while it decodes and resizes, every source is
shared instead of pickled, and nothing forks a process that holds CUDA and OpenMP threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderkit.data import image
from adderkit.data.raw import RawSplit
from adderkit.data.split import Preparation, Split

_AHEAD = 3  # batches being decoded: one to hand over, two so that threads never wait at a batch's end
_CHUNK = 1024


def scan(raw: RawSplit, workers: int, same_size: bool) -> int:
    """Reads the header of every image.

    Args:
        raw: The split.
        workers: Threads.
        same_size: Refuse images of different sizes.

    Returns:
        Channels that hold all images: 3 if any has colour, else 1.

    Raises:
        ValueError: Something that is no image, or images of different sizes; the message names them.
    """

    def chunk(start: int) -> list[tuple[int, int, int]]:
        rows = range(start, min(start + _CHUNK, len(raw)))
        return [image.header(raw, i) for i in rows]

    first = image.header(raw, 0)
    channels, row = 1, 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for headers in pool.map(chunk, range(0, len(raw), _CHUNK)):
                for width, height, colours in headers:
                    if same_size and (width, height) != first[:2]:
                        raise image.mixed_sizes(raw.where(0), first[:2], raw.where(row), (width, height))
                    channels = max(channels, colours)
                    row += 1
        finally:
            pool.shutdown(cancel_futures=True)
    return channels


def read_rows(
    raw: RawSplit, rows: Sequence[int] | NDArray[np.int64], size: int | None, channels: int
) -> NDArray[np.uint8]:
    """Decodes some images; shape (N, C, H, W), uint8, grey ones repeated where C = 3."""
    images = [image.read(raw, int(i), size) for i in rows]
    same = [np.broadcast_to(one, (*one.shape[:2], channels)) for one in images]
    return np.stack(same).transpose(0, 3, 1, 2)


class StreamSplit(Split):
    """A split decoded on the fly.

    Args:
        raw: The images.
        size: As `DataConfig.image_size`.
        channels: 1 or 3, as `scan` found.
        workers: Decoding threads; 0: the caller's own.
        preparation: What is done to each batch.
        device: Where the batches are made.
    """

    def __init__(
        self,
        raw: RawSplit,
        size: int | None,
        channels: int,
        workers: int,
        preparation: Preparation,
        device: torch.device,
    ) -> None:
        super().__init__(raw.labels, preparation, device)
        self._raw = raw
        self._size = size
        self._channels = channels
        self._workers = workers

    def _read(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        if self._workers == 0:
            for rows in batches:
                yield self._to_device(read_rows(self._raw, rows, self._size, self._channels))
            return
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                yield from self._prefetched(batches, pool)
            finally:  # a caller that stops early waits for running tasks only
                pool.shutdown(cancel_futures=True)

    def _prefetched(self, batches: Sequence[NDArray[np.int64]], pool: ThreadPoolExecutor) -> Iterator[Tensor]:
        def submit(rows: NDArray[np.int64]) -> list[Future[NDArray[np.uint8]]]:
            parts = np.array_split(rows, min(len(rows), 4 * self._workers))
            return [pool.submit(read_rows, self._raw, part, self._size, self._channels) for part in parts]

        rest = iter(batches)
        pending = deque(submit(rows) for rows in islice(rest, _AHEAD))
        while pending:
            done = pending.popleft()
            yield self._to_device(np.concatenate([part.result() for part in done]))
            pending.extend(submit(rows) for rows in islice(rest, 1))

    def _to_device(self, pixels: NDArray[np.uint8]) -> Tensor:
        images = torch.from_numpy(pixels)
        if self._device.type == "cuda":
            return images.pin_memory().to(self._device, non_blocking=True)
        return images.to(self._device)
