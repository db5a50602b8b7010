"""Large sets: a DataLoader whose workers decode images as they are needed."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from time import sleep
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adderkit.data import fingerprint, image, workers
from adderkit.data.crops import ResizedCrop
from adderkit.data.raw import RawSplit
from adderkit.data.split import Preparation, Split

_CHUNK = 1024
_DEATH_IS_KNOWN_S = 2.0


class Headers(NamedTuple):
    """What the headers of a split say together."""

    channels: int
    """that hold all images: 3 if any has colour, else 1"""
    pixels: int
    """of all images"""
    sizes: str
    """a digest of the width and height of each"""


def scan(raw: RawSplit, workers: int, same_size: bool) -> Headers:
    """Reads the header of every image.

    Args:
        raw: The split.
        workers: Threads.
        same_size: Refuse images of different sizes.

    Raises:
        ValueError: Something that is no image, or images of different sizes; the message names them.
    """

    def chunk(start: int) -> list[tuple[int, int, int]]:
        rows = range(start, min(start + _CHUNK, len(raw)))
        return [image.header(raw, i) for i in rows]

    first = image.header(raw, 0)
    channels, pixels, row = 1, 0, 0
    sizes = np.empty((len(raw), 2), np.int64)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for headers in pool.map(chunk, range(0, len(raw), _CHUNK)):
                for width, height, colours in headers:
                    if same_size and (width, height) != first[:2]:
                        raise image.mixed_sizes(raw.where(0), first[:2], raw.where(row), (width, height))
                    sizes[row] = width, height
                    channels, pixels, row = max(channels, colours), pixels + width * height, row + 1
        finally:
            pool.shutdown(cancel_futures=True)
    return Headers(channels, pixels, fingerprint.of_sizes(sizes))


def read_rows(raw: RawSplit, rows: NDArray[np.int64], sizes: Sequence[image.Size], channels: int) -> NDArray[np.uint8]:
    """Decodes some images, each fitted in its own way; shape (N, C, H, W), uint8, grey ones repeated where C = 3."""
    images = [image.read(raw, int(i), size) for i, size in zip(rows, sizes, strict=True)]
    same = [np.broadcast_to(one, (*one.shape[:2], channels)) for one in images]
    return np.stack(same).transpose(0, 3, 1, 2)


class _Batches(Dataset[Tensor | ValueError]):
    """Decodes the rows of a whole batch, with the words of their resized crops where there are any.

    A broken image comes back as its error: DataLoader would bury the message that names the file in the traceback of a
    worker.
    """

    def __init__(self, raw: RawSplit, size: image.Size, side: int, channels: int) -> None:
        self._raw, self._size, self._side, self._channels = raw, size, side, channels

    def __getitem__(self, batch: tuple[NDArray[np.int64], NDArray[np.uint64] | None]) -> Tensor | ValueError:
        rows, words = batch
        sizes = [self._size] * len(rows) if words is None else [ResizedCrop(self._side, own) for own in words]
        try:
            return torch.from_numpy(read_rows(self._raw, rows, sizes, self._channels))
        except ValueError as error:
            return ValueError(str(error))


# Whoever stops a job often signals all of its processes; a worker that died of it would take a training down in the
# middle of a step, instead of between two. Workers end when the training does: it tells them, or they find it gone.
_LEFT_TO_THE_TRAINING = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def _ignore_signals(worker: int) -> None:
    for number in _LEFT_TO_THE_TRAINING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_THE_TRAINING)


def _started(loader: DataLoader[Tensor | ValueError]) -> Iterator[Tensor | ValueError]:
    """The loader's iterator. Signals wait while its workers start, for these are born with the training's handlers."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_TRAINING)
    try:
        iterator = iter(loader)
        workers.remember(getattr(iterator, "_workers", ()))
        return iterator
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _batches(loader: DataLoader[Tensor | ValueError]) -> Iterator[Tensor | ValueError]:
    """The loader's batches. A worker that dies while it answers is reported as torch reports all others."""
    try:
        yield from _started(loader)
    except (EOFError, ConnectionError):
        # The answer broke off before the death was known. Torch's watch tells of it within moments, from whatever code
        # runs then: it must be this.
        sleep(_DEATH_IS_KNOWN_S)
        raise RuntimeError("DataLoader worker broke off its answer") from None


class StreamSplit(Split):
    """A split decoded on the fly.

    Args:
        raw: The images.
        size: What is done to images as they are.
        side: Of resized crops, in pixels.
        channels: 1 or 3, as `scan` found.
        workers: Decoding processes; 0: the caller's own.
        preparation: What is done to each batch.
        device: Where the batches are made.
    """

    def __init__(
        self,
        raw: RawSplit,
        size: image.Size,
        side: int,
        channels: int,
        workers: int,
        preparation: Preparation,
        device: torch.device,
    ) -> None:
        super().__init__(raw.labels, preparation, device)
        self._images = _Batches(raw, size, side, channels)
        self._workers = workers

    def _read(
        self, batches: Sequence[NDArray[np.int64]], words: Iterable[NDArray[np.uint64]] | None = None
    ) -> Iterator[Tensor]:
        keys: Any = zip(batches, repeat(None) if words is None else words, strict=False)
        loader: DataLoader[Tensor | ValueError] = DataLoader(
            self._images,
            sampler=keys,  # an index may be anything that the data set takes
            batch_size=None,
            num_workers=self._workers,
            # The sources hold open files and closures, which other ways to start a worker would have to pickle.
            multiprocessing_context="fork" if self._workers else None,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_ignore_signals,
            # A loader seeds its workers from this, by default from torch's own generator, which a method may draw from:
            # a run that goes on within an epoch makes one loader more than an uninterrupted one.
            generator=torch.Generator(),
        )
        for images in _batches(loader):
            if isinstance(images, ValueError):
                raise images
            yield images.to(self._device, non_blocking=True)
