"""What the training loop sees of a split: batches in a reproducible order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderkit.data import augment

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Preparation:
    """How stored images become inputs of a network: padding of the random crop, flip, normalisation.

    `resizes`: training images are random windows of the decoded ones, resized (`crops.ResizedCrop`).
    """

    padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizes: bool = False


@dataclass(frozen=True)
class Share:
    """What one process takes of every batch: its share of each of the parts that the batch is cut into.

    A batch of G images is cut into `parts` of G / parts; each part is shared out in `processes` equal pieces. So the
    images of a part do not depend on the number of processes.
    """

    process: int = 0
    processes: int = 1
    parts: int = 1

    def rows(self, batch_size: int) -> list[slice]:
        """This process's rows of a batch of `batch_size` images: a slice per part.

        Raises:
            ValueError: the batch can't be shared out evenly.
        """
        pieces = self.parts * self.processes
        if batch_size % pieces:
            shared = f"shared by {self.processes} processes" if self.processes > 1 else "done"
            parts = f" in {self.parts} parts (`accumulate`)" if self.parts > 1 else ""
            below = batch_size // pieces * pieces
            raise ValueError(
                f"`batch_size` (={batch_size}) is {shared}{parts}: it must be a multiple of {pieces}, as"
                f" {f'{below} or ' if below else ''}{below + pieces}"
            )
        length = batch_size // pieces
        starts = [(part * self.processes + self.process) * length for part in range(self.parts)]
        return [slice(start, start + length) for start in starts]


WHOLE = Share()


class Split(ABC):
    """Images and labels of one split.

    Attributes:
        labels: Class of each image, int64, shape (N,), on the device.
    """

    def __init__(self, labels: NDArray[np.int64], preparation: Preparation, device: torch.device) -> None:
        self.labels = torch.from_numpy(labels.copy()).to(device)
        self._preparation = preparation
        self._device = device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def evaluated_at_once(self) -> int:
        """Images in a batch of an evaluation: accuracies do not depend on it, of the loss the last bits."""
        return 256

    @abstractmethod
    def _read(
        self, batches: Sequence[NDArray[np.int64]], words: Iterable[NDArray[np.uint64]] | None = None
    ) -> Iterator[Tensor]:
        """For each array of row numbers the images, uint8 (N, C, H, W) on the device.

        Args:
            batches: Row numbers.
            words: For each of these arrays the words of its images' resized crops, (N, WORDS); None: images as they
                are, fitted to the network's size.
        """

    def steps(self, batch_size: int) -> int:
        """Training batches per epoch: whole ones only.

        Raises:
            ValueError: `batch_size` is below 1 or above the number of images.
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"`batch_size` (={batch_size}) must be from 1 to {len(self)}, the number of images")
        return len(self) // batch_size

    def batches(
        self, batch_size: int, *, seed: int | None, epoch: int = 0, start: int = 0, share: Share = WHOLE
    ) -> Batches:
        """Batches of one epoch.

        Args:
            batch_size: Images per batch, of all processes together.
            seed: None: evaluation, that is all images in order, as they are, the last batch short where need be.
                Else training: the order comes from (seed, epoch), the augmentation of a batch from
                (seed, epoch, step), and a short last batch is dropped.
            epoch: Number of the epoch, from 0.
            start: First step to give: the batches are those that a run from 0 gives from this step on.
            share: What this process takes. Training: its rows of every batch, part by part, augmented as they are in
                the whole batch. Evaluation: whole batches, every `processes`-th, with `start` counting all of them.

        Returns:
            Iterator over images, float32 (N, C, H, W) channels_last (on a GPU contiguous), normalised, and labels,
            int64 (N,), both on the device. On a GPU nothing waits for it.

        Raises:
            ValueError: `batch_size`, `seed`, `epoch` or `start` is out of range.
        """
        if seed is None:
            if batch_size < 1:
                raise ValueError(f"`batch_size` (={batch_size}) must be >= 1")
            steps, rows = -(-len(self) // batch_size), np.arange(len(self))
        else:
            for argument, value in (("seed", seed), ("epoch", epoch)):
                if value < 0:
                    raise ValueError(f"`{argument}` (={value}) must be >= 0")
            steps, rows = self.steps(batch_size), augment.order(len(self), seed, epoch)
        if not 0 <= start <= steps:
            raise ValueError(f"`start` (={start}) must be from 0 to {steps}, the number of steps")
        batches = [rows[step * batch_size : (step + 1) * batch_size] for step in range(start, steps)]
        if seed is None:
            return self._plain(batches[(share.process - start) % share.processes :: share.processes])
        pieces = share.rows(batch_size)
        mine = [batch[piece] for batch in batches for piece in pieces]
        return self._augmented(mine, batch_size, pieces, seed, epoch, start)

    def uint8_batches(self, batch_size: int, rows: NDArray[np.int64] | None = None) -> Batches:
        """Images as decoded, uint8 (N, C, H, W), and their labels, int64 (N,), on the device.

        Args:
            batch_size: Images per batch; the last one may be short.
            rows: Which images, in this order, each from 0 to the number of images - 1; None: all.

        Raises:
            ValueError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` (={batch_size}) must be >= 1")
        wanted = np.arange(len(self)) if rows is None else rows
        batches = np.split(wanted, range(batch_size, len(wanted), batch_size))
        return zip(self._read(batches), self._labels(batches), strict=True)

    def _plain(self, batches: Sequence[NDArray[np.int64]]) -> Batches:
        for images, labels in zip(self._read(batches), self._labels(batches), strict=True):
            yield self._normalised(images), labels

    def _augmented(
        self,
        batches: Sequence[NDArray[np.int64]],
        batch_size: int,
        pieces: Sequence[slice],
        seed: int,
        epoch: int,
        start: int,
    ) -> Batches:
        how = self._preparation
        places = [(start + index // len(pieces), pieces[index % len(pieces)]) for index in range(len(batches))]
        words = None
        if how.resizes:  # drawn as batches are asked for: of a whole epoch of ImageNet they would be 400 MB
            words = (augment.crop_words(batch_size, seed=seed, epoch=epoch, step=step)[piece] for step, piece in places)
        choices: Iterable[Tensor | None] = repeat(None, len(places))
        if how.padding or how.flip:
            steps = range(start, start + len(batches) // len(pieces))
            drawn = (augment.draws(batch_size, how.padding, how.flip, seed=seed, epoch=epoch, step=s) for s in steps)
            choices = self._moved([own[:, piece] for own in drawn for piece in pieces], axis=1)
        for images, labels, own in zip(self._read(batches, words), self._labels(batches), choices, strict=True):
            cut = images if own is None else augment.crop_flip(images, own, how.padding)
            yield self._normalised(cut), labels

    def _normalised(self, images: Tensor) -> Tensor:
        return augment.normalise(images, self._preparation.mean, self._preparation.std)

    def _labels(self, batches: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        rows = self._moved(batches)
        return list(self.labels[torch.cat(rows)].split([len(part) for part in rows])) if rows else []

    def _moved(self, arrays: Sequence[NDArray[np.int64]], axis: int = 0) -> list[Tensor]:
        """The arrays on the device: moved there in one piece, for which a GPU is not waited for."""
        if not arrays:
            return []
        whole = torch.from_numpy(np.concatenate(arrays, axis))
        if self._device.type == "cuda":
            whole = whole.pin_memory()
        moved = whole.to(self._device, non_blocking=True)
        return list(moved.split([array.shape[axis] for array in arrays], axis))
